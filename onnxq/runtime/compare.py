"""How far two outputs lie apart, summed up in a stream: nothing is kept but sums."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from onnxq.runtime.batch import Array
from onnxq.runtime.slices import LostSlices, SliceComparison, slice_axes


def plain(value: Any) -> Any:
    """Return ``value`` for JSON, which knows no infinity and no NaN: those become None."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class OutputAccuracy:
    """How the candidate's output compares with the reference's over all data.

    Positions where either value is NaN or infinite are counted, and left out of all else.
    A number that does not apply to this output is None.

    Args:
        name: The output.
        compared: How many values were compared.
        masked: How many were left out because they belong to padding.
        cosine: Of the two streams, each flattened to one long vector.
        cosine_mean: Mean over the samples of each one's own cosine.
        cosine_min: The smallest of those.
        sqnr_db: Power of the reference over power of the difference, in decibels; infinite
            if the two are equal.
        max_abs: Largest absolute difference.
        scale: Largest absolute value of the reference, to judge ``max_abs`` by.
        rms: Root mean square of the reference.
        agreement: Share of samples whose largest value stands at the same place. Only for
            an output of shape (N, C), C >= 2: it says something if that is a row of classes.
        equal: Share of equal values, for whole numbers, booleans, text, sequences and maps.
        non_finite: NaN or infinite values in the reference.
        new_non_finite: Those in the candidate where the reference has a number.
        lost: Channels or columns that are poor although the whole is not.

    """

    name: str
    compared: int
    masked: int
    cosine: float | None = None
    cosine_mean: float | None = None
    cosine_min: float | None = None
    sqnr_db: float | None = None
    max_abs: float | None = None
    scale: float | None = None
    rms: float | None = None
    agreement: float | None = None
    equal: float | None = None
    non_finite: int = 0
    new_non_finite: int = 0
    lost: LostSlices | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values; an infinite SQNR becomes None."""
        return dict(plain(asdict(self)))


@dataclass
class FloatComparison:
    """Takes pairs of float outputs, batch by batch."""

    name: str
    signal: float = 0.0
    other: float = 0.0
    dot: float = 0.0
    noise: float = 0.0
    max_abs: float = 0.0
    scale: float = 0.0
    compared: int = 0
    masked: int = 0
    non_finite: int = 0
    new_non_finite: int = 0
    live: int = 0
    cosine_sum: float = 0.0
    cosine_min: float = math.inf
    rows: int = 0
    agreeing: int = 0
    slices: dict[int, SliceComparison] = field(default_factory=dict)

    def update(self, reference: Array, candidate: Array, keep: Array | None, samples: int) -> None:
        """Add one batch.

        Args:
            reference: Any shape; if its first axis is ``samples`` long, it counts them.
            candidate: The same shape.
            keep: None, or booleans of shape (N, T): which positions are no padding.
            samples: How many samples the batch has.

        """
        rows = samples if reference.ndim and reference.shape[0] == samples else 1
        kept = _kept(keep, reference.shape)
        finite, new = np.isfinite(reference), np.isfinite(candidate)
        self.masked += int(kept.size - kept.sum())
        self.non_finite += int((kept & ~finite).sum())
        self.new_non_finite += int((kept & finite & ~new).sum())
        self._agree(reference, candidate, kept)
        kept = kept & finite & new
        self.compared += int(kept.sum())
        if reference.size:
            x, y = (np.where(kept, array, 0).astype(np.float64) for array in (reference, candidate))
            self._slice(x, y - x)
            live: Array = np.any(kept.reshape(rows, -1), axis=1)
            self._add(x.reshape(rows, -1), y.reshape(rows, -1), live)

    def _slice(self, x: Array, difference: Array) -> None:
        for axis in slice_axes(x.shape):
            self.slices.setdefault(axis, SliceComparison(axis)).update(x, difference)

    def _add(self, x: Array, y: Array, live: Array) -> None:
        difference = np.abs(x - y)
        xx, yy, xy = ((a * b).sum(axis=1) for a, b in ((x, x), (y, y), (x, y)))
        self.signal += float(xx.sum())
        self.other += float(yy.sum())
        self.dot += float(xy.sum())
        self.noise += float((difference**2).sum())
        self.max_abs = max(self.max_abs, float(difference.max()))
        self.scale = max(self.scale, float(np.abs(x).max()))
        for one in [cosine(*sums) for sums in zip(xy[live], xx[live], yy[live], strict=True)]:
            self.live += 1
            self.cosine_sum += one
            self.cosine_min = min(self.cosine_min, one)

    def _agree(self, reference: Array, candidate: Array, kept: Array) -> None:
        if reference.ndim != 2 or reference.shape[1] < 2:
            return
        first, second = (np.where(kept, array, -np.inf).argmax(axis=1) for array in (reference, candidate))
        self.rows += len(first)
        self.agreeing += int((first == second).sum())

    def result(self) -> OutputAccuracy:
        """Return the comparison over all batches so far."""
        seen = self.compared > 0
        return OutputAccuracy(
            name=self.name,
            compared=self.compared,
            masked=self.masked,
            cosine=cosine(self.dot, self.signal, self.other) if seen else None,
            cosine_mean=self.cosine_sum / self.live if self.live else None,
            cosine_min=self.cosine_min if self.live else None,
            sqnr_db=sqnr_db(self.signal, self.noise) if seen else None,
            max_abs=self.max_abs if seen else None,
            scale=self.scale if seen else None,
            rms=math.sqrt(self.signal / self.compared) if seen else None,
            agreement=self.agreeing / self.rows if self.rows else None,
            non_finite=self.non_finite,
            new_non_finite=self.new_non_finite,
            lost=self._lost(),
        )

    def _lost(self) -> LostSlices | None:
        """Return what was lost along the axis where the worst slice is."""
        found = [lost for one in self.slices.values() if (lost := one.result()) is not None]
        return min(found, key=lambda lost: lost.sqnr_db, default=None)


@dataclass
class EqualityComparison:
    """Takes pairs of outputs that are not float tensors, batch by batch."""

    name: str
    compared: int = 0
    equal: int = 0
    masked: int = 0

    def update(self, reference: Any, candidate: Any, keep: Array | None, samples: int) -> None:
        """Add one batch: arrays value by value, sequences item by item, maps whole."""
        del samples
        if isinstance(reference, np.ndarray):
            kept = _kept(keep, reference.shape)
            self.masked += int(kept.size - kept.sum())
            self.compared += int(kept.sum())
            self.equal += int((kept & (reference == candidate)).sum())
            return
        ours, theirs = (value if isinstance(value, list) else [value] for value in (reference, candidate))
        self.compared += max(len(ours), len(theirs))
        self.equal += sum(map(_same, ours, theirs))

    def result(self) -> OutputAccuracy:
        """Return the share of equal values so far."""
        share = self.equal / self.compared if self.compared else None
        return OutputAccuracy(self.name, self.compared, self.masked, equal=share)


def cosine(dot: float, first: float, second: float) -> float:
    """Return the cosine from x·y, x·x and y·y: 1 for two zero vectors, 0 if only one is zero."""
    if first == 0 or second == 0:
        return float(first == second)
    return float(np.clip(dot / math.sqrt(first * second), -1, 1))


def sqnr_db(signal: float, noise: float) -> float:
    """Return ten times the decimal logarithm of signal over noise, both as sums of squares."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def _kept(keep: Array | None, shape: tuple[int, ...]) -> Array:
    """Return ``keep`` of shape (N, T) repeated along the axes behind: (N, T, ...); all True for None."""
    if keep is None:
        return np.ones(shape, bool)
    return np.broadcast_to(keep.reshape(keep.shape + (1,) * (len(shape) - keep.ndim)), shape)


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        return np.array_equal(first, second)
    return bool(first == second)
