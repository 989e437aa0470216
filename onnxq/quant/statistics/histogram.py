"""A histogram of float32 values whose bins are known before any data is seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxq.quant.statistics.base import Block, Known, Rescaling, Statistic
from onnxq.quant.statistics.plain import array_in, array_out
from onnxq.quant.statistics.rows import Rows

C = TypeVar("C", np.int64, np.float64)

BIN_COUNT = 1 << 16
"""One bin for each value of a float32's upper 16 bits: sign, exponent and 7 bits of mantissa."""

_CHUNK = 1 << 20
"""Values that are counted at once: bounds the memory of the temporary 64-bit indices to 8 MB."""


@dataclass(frozen=True, eq=False)
class Histogram(Statistic):
    """Counts of float32 values by their upper 16 bits.

    A bin is at most 1/128 of its own values wide. As the bins do not depend on the data, one pass fills them,
    the counts of any two parts of the data add up, and batch size and order do not matter.

    Args:
        counts: Shape (65536,), int64; indexed by the upper 16 bits of the value.

    Raises:
        ValueError: A count is negative.

    """

    name = "histogram"
    counts: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Check the counts."""
        if self.counts.min() < 0:
            raise ValueError("a bin counts less than nothing")

    @staticmethod
    def of(values: NDArray[np.float32]) -> Histogram:
        """Count float32 ``values`` of any shape."""
        return Histogram(_counts(values))

    @staticmethod
    def observer() -> HistogramObserver:
        """Return one with empty bins."""
        return HistogramObserver()

    @classmethod
    def rescaled(cls, known: Known, by: Rescaling) -> Self | None:
        """Return that of the sampled rows, moved: bins hold all channels, which do not move alike."""
        rows = known.get(Rows, by.axis)
        return None if rows is None else cls(_counts(by.of(rows.values)))

    @property
    def bulk(self) -> int:
        """The filled bins."""
        return int(np.count_nonzero(self.counts))

    def to_table(self) -> dict[str, Any]:
        """Return the filled bins."""
        filled = np.flatnonzero(self.counts)
        bins, counts = array_out(filled.astype(np.uint16)), array_out(self.counts[filled])
        return {"histogram": {"bins": bins, "counts": counts}}

    @classmethod
    def from_table(cls, entry: Mapping[str, Any]) -> Self | None:
        """Read the filled bins."""
        if "histogram" not in entry:
            return None
        bins, counts = (array_in(entry["histogram"][part]) for part in ("bins", "counts"))
        return cls._filled(bins, counts)

    def to_fields(self) -> dict[str, Any]:
        """Return a dictionary of the filled bins."""
        filled = np.flatnonzero(self.counts)
        return {"histogram": dict(zip(filled.tolist(), self.counts[filled].tolist(), strict=True))}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self | None:
        """Read the dictionary."""
        if "histogram" not in fields:
            return None
        filled: Mapping[int, int] = fields["histogram"]
        return cls._filled(list(filled), list(filled.values()))

    @classmethod
    def _filled(cls, bins: Any, counts: Any) -> Self:
        everywhere = np.zeros(BIN_COUNT, np.int64)
        everywhere[bins] = counts
        return cls(everywhere)

    @property
    def count(self) -> int:
        """How many values were counted."""
        return int(self.counts.sum())

    def ordered(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """Return the lower edges, upper edges and counts of the filled bins, by rising value; each (B,)."""
        return filled_bins(self.counts)

    def quantile(self, share: float) -> float:
        """Return the value below which ``share`` (0 to 1) of the counted values lie.

        It is ``numpy.quantile``'s linear rule, with each order statistic known up to its bin.
        """
        low, high, counts = self.ordered()
        last = counts.cumsum()
        rank = share * (last[-1] - 1)

        def order_statistic(k: float) -> float:
            at = int(np.searchsorted(last, k, side="right"))
            part = (k - (last[at] - counts[at]) + 0.5) / counts[at]
            return float(low[at] + part * (high[at] - low[at]))

        below, above = np.floor(rank), np.ceil(rank)
        at_below, at_above = order_statistic(below), order_statistic(above)
        return float(at_below + (rank - below) * (at_above - at_below))


class HistogramObserver:
    """Counts by the bins of ``Histogram``."""

    def __init__(self) -> None:
        """Start with empty bins."""
        self.counts = np.zeros(BIN_COUNT, np.int64)

    def update(self, block: Block) -> None:
        """Count the values."""
        self.counts += _counts(block.values)

    def merge(self, later: HistogramObserver) -> None:
        """Add the other's counts."""
        self.counts += later.counts

    def result(self) -> Histogram:
        """Return the histogram."""
        return Histogram(self.counts)


_UPPER_HALF = 1 if np.little_endian else 0


def bins_of(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the number of the bin of each value, shape (N,)."""
    return np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint16)[_UPPER_HALF::2]


def filled_bins(counts: NDArray[C]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[C]]:
    """Return the lower edges, upper edges and counts of the bins that are not 0, by rising value.

    Args:
        counts: Shape (65536,).

    """
    order, low, high = _bins()
    counts = counts[order]
    filled = np.flatnonzero(counts)
    return low[filled], high[filled], counts[filled]


def _counts(values: NDArray[np.float32]) -> NDArray[np.int64]:
    upper = bins_of(values)
    counts = np.bincount(upper[:_CHUNK], minlength=BIN_COUNT)
    for start in range(_CHUNK, upper.size, _CHUNK):
        counts += np.bincount(upper[start : start + _CHUNK], minlength=BIN_COUNT)
    return counts.astype(np.int64, copy=False)


@cache
def _bins() -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the finite bins by rising value: their indices, lower and upper edges."""
    magnitude = np.arange(0x7F80, dtype=np.int64)
    edges = (np.arange(0x7F81, dtype=np.uint32) << 16).view(np.float32).astype(np.float64)
    edges[-1] = float(np.finfo(np.float32).max)
    order = np.concatenate([(magnitude + 0x8000)[::-1], magnitude])
    low = np.concatenate([-edges[1:][::-1], edges[:-1]])
    high = np.concatenate([-edges[:-1][::-1], edges[1:]])
    return order, low, high
