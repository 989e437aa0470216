"""What is expected of channels that are normally distributed, and of what follows from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.quant.facts import Facts, facts_of
from onnxq.quant.statistics import ChannelRange, Mean, Range

Array = NDArray[np.float64]
Function = Callable[[Array], Array]

POINTS = 1000
"""Where a function is evaluated on either side of the mean, for each channel."""

WHOLE = 8.0
"""Beyond so many deviations lies less than 2e-15 of the probability: means are taken over all of it."""


@dataclass(frozen=True, eq=False)
class Expected:
    """What is expected of each channel of a value.

    Args:
        mean: Shape (C,).
        low: The smallest value, shape (C,).
        high: The largest value, shape (C,).

    """

    mean: Array
    low: Array
    high: Array

    def __add__(self, other: Expected) -> Expected:
        """Return what is expected of the sum; its range is as wide as both together."""
        return Expected(self.mean + other.mean, self.low + other.low, self.high + other.high)

    def facts(self, axis: int) -> Facts:
        """Return it as facts, the channels along ``axis``, counted from the end."""
        low, high, mean = (part.astype(np.float32) for part in (self.low, self.high, self.mean))
        whole = Range(float(low.min()), float(high.max()))
        return facts_of(len(mean), whole, ChannelRange(low, high), Mean(mean), axis=axis)


def joined(parts: Sequence[Expected]) -> Expected:
    """Return what is expected of values joined along their channels."""
    columns = ([getattr(part, name) for part in parts] for name in ("mean", "low", "high"))
    return Expected(*map(np.concatenate, columns))


def expected_of(
    function: Function, mean: NDArray[np.floating[Any]], deviation: NDArray[np.floating[Any]], reach: float
) -> Expected:
    """Return what is expected of ``function(x)``, where each channel of ``x`` is normal.

    The mean is the integral over the whole density by the trapezoidal rule. Where the function bends between
    two points, as a Relu does at zero, that is off by less than an eighth of their squared distance, times
    the bend: for a deviation of 1, by less than 4e-6. ``reach`` is for the range alone.

    Args:
        function: Works on each element of an array.
        mean: Shape (C,).
        deviation: The standard deviation, shape (C,); at least 0.
        reach: How many deviations values lie from the mean at most.

    """

    def values(points: Array) -> Array:
        return function(mean.astype(np.float64)[:, np.newaxis] + np.outer(deviation, points))

    points = _symmetric(WHOLE)
    weights = np.exp(-np.square(points) / 2)
    weights[[0, -1]] /= 2
    whole, within = values(points), values(_symmetric(reach))
    mirrored = (whole + whole[:, ::-1]) / 2  # what is even about the mean stays, the rest cancels exactly
    return Expected(mirrored @ (weights / weights.sum()), within.min(axis=1), within.max(axis=1))


def _symmetric(reach: float) -> Array:
    right = np.linspace(0, reach, POINTS + 1)
    return np.concatenate([-right[:0:-1], right])
