"""Outlier channels: which few make a tensor's range wide, and what the wide range costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.quant.encodings import Encoding

FloatArray = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Narrowed:
    """A range, and the channels that were left out of it.

    Args:
        low: Smallest value of the other channels.
        high: Largest value of the other channels.
        channels: The channels left out, ascending.

    """

    low: float
    high: float
    channels: NDArray[np.intp]


def narrowest_range(low: FloatArray, high: FloatArray, count: int) -> Narrowed:
    """Return the narrowest range that leaves out at most ``count`` channels; zero stays inside.

    Those with the largest values above and the smallest below are left out, in the best division.

    Args:
        low: Smallest value of each channel, shape (C,).
        high: Largest value of each channel, shape (C,).
        count: How many may be left out, fewer than C.

    """
    by_high, by_low = np.argsort(-high, kind="stable"), np.argsort(low, kind="stable")
    divisions = (
        _without(low, high, np.union1d(by_high[:above], by_low[: count - above]))
        for above in range(count + 1)
    )
    return min(divisions, key=lambda one: one.high - one.low)


def _without(low: FloatArray, high: FloatArray, channels: NDArray[np.intp]) -> Narrowed:
    kept = np.ones(len(low), bool)
    kept[channels] = False
    return Narrowed(min(float(low[kept].min()), 0.0), max(float(high[kept].max()), 0.0), channels)


def product_error(rows: FloatArray, weight: FloatArray, encoding: Encoding) -> float:
    """Return the squared error of ``rows @ weight``, summed up, when the rows are put on the grid.

    Args:
        rows: Shape (R, C).
        weight: Shape (C, N).
        encoding: Of the rows, per tensor.

    """
    error = (encoding.restored(rows) - rows) @ weight
    return float(np.square(error, dtype=np.float64).sum())
