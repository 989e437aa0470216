"""Where inside an output a model went wrong: one error for each channel or column, summed up in a stream.

An output may hold things of different size: boxes in pixels beside scores below one. Taken as a whole, the
large ones speak for all; here each slice along an axis is held against its own signal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from onnxq.runtime.batch import Array

MOST_SLICES = 1 << 16
"""An axis that is longer is not looked at: more than any vocabulary or number of classes."""

USELESS_DB = 10.0
"""Below this SQNR an error is a third of its signal, and more: of a slice, or of a whole output."""

HIDDEN_DB = 10.0
"""A slice is told of if it is worse than the whole by so much: else the whole tells it."""

LEAST_VALUES = 16
"""So many values of about the same size must carry a slice's signal, for its error to be no accident.

A slice can look worse than the whole by 10 dB where its mean square falls to a tenth by chance: of 16 normal
values it does so in 2 slices of a million.
"""

SILENT = 1e-6
"""A slice with less than this part of the median slice's power is silent: a channel that died in training."""

MINOR_PEAK = 0.1
"""Among slices between 0 and 1, one that stays below this part of the largest peak decides nothing."""


@dataclass(frozen=True)
class LostSlices:
    """Slices of an output that are poor although the whole is not.

    Args:
        axis: The axis along which the output was cut.
        length: Into how many slices.
        lost: How many of them are poor.
        index: The worst one.
        sqnr_db: Power of its reference over power of its difference, in decibels.

    """

    axis: int
    length: int
    lost: int
    index: int
    sqnr_db: float


class _Sums(NamedTuple):
    """Of each slice: the sums of x², x⁴ and (x - y)², and the extremes of x."""

    signal: Array
    fourth: Array
    noise: Array
    low: Array
    high: Array

    def joined(self, other: _Sums) -> _Sums:
        """Return the sums over the samples of both."""
        return _Sums(
            self.signal + other.signal,
            self.fourth + other.fourth,
            self.noise + other.noise,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
        )


class SliceComparison:
    """Sums up one output along one axis; an axis whose length changes from batch to batch is given up."""

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.varies = False
        self.adds_up = True
        self.sums: _Sums | None = None

    def update(self, reference: Array, difference: Array) -> None:
        """Add one batch.

        Args:
            reference: Of float64; 0 where a value does not count.
            difference: The candidate less the reference, likewise.

        """
        length = reference.shape[self.axis]
        if length < 2 or length > MOST_SLICES or (self.sums is not None and len(self.sums.low) != length):
            self.varies, self.sums = True, None
        if self.varies:
            return
        others = tuple(axis for axis in range(reference.ndim) if axis != self.axis)
        squares = reference**2
        sums = _Sums(
            squares.sum(axis=others),
            (squares**2).sum(axis=others),
            (difference**2).sum(axis=others),
            reference.min(axis=others),
            reference.max(axis=others),
        )
        self.sums = sums if self.sums is None else self.sums.joined(sums)
        self.adds_up = self.adds_up and _is_distribution(reference, self.axis)

    def result(self) -> LostSlices | None:
        """Return the poor slices, or None if there are none, or if the values along the axis add up to one.

        Those are shares of one thing, to be judged together.
        """
        if self.sums is None or self.adds_up:
            return None
        signal, noise = self.sums.signal, self.sums.noise
        whole = noise.sum() / signal.sum() if signal.any() else np.inf
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.where(_carries_signal(self.sums), noise / signal, 0)
        poor = error > max(10 ** (-USELESS_DB / 10), whole * 10 ** (HIDDEN_DB / 10))
        if not poor.any():
            return None
        index = int(error.argmax())
        return LostSlices(self.axis, len(error), int(poor.sum()), index, float(-10 * np.log10(error[index])))


def slice_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the axes that may hold channels or columns: the second and the last."""
    return tuple(sorted({1, len(shape) - 1})) if len(shape) > 1 else ()


def _is_distribution(values: Array, axis: int) -> bool:
    """Return whether the values are shares that add up to one, but for rows that do not count."""
    if values.min() < 0:
        return False
    totals = values.sum(axis=axis)
    return bool(np.all((np.abs(totals - 1) < 1e-3) | (totals == 0)))


def _carries_signal(sums: _Sums) -> Array:
    signal = sums.signal
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.where(signal > 0, signal**2 / sums.fourth, 0)
    silent = signal < SILENT * np.median(signal)
    shares = (sums.low >= 0) & (sums.high <= 1)
    minor = shares & (sums.high < MINOR_PEAK * np.max(sums.high, where=shares, initial=0))
    carries: Array = (values >= LEAST_VALUES) & ~silent & ~minor
    return carries
