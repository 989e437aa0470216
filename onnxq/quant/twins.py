"""Twin grids for a factor of a product: which border errs least in what the product gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from onnxq.quant.encodings import Encoding, Twin

Rows = NDArray[np.float32]
Cost = Callable[[Encoding], float]
MOST_HALVINGS = 19
"""How far the search for a border goes down from 1, as in the reference code of the paper."""


def with_weight(rows: Rows, weight: Rows) -> Cost:
    """Return the mean squared error of ``rows @ weight``, by the grid that the rows are put on.

    Args:
        rows: Shape (R, C).
        weight: Shape (C, N), known.

    """

    def cost(grid: Encoding) -> float:
        error = (grid.restored(rows) - rows) @ weight
        return float(np.square(error, dtype=np.float64).mean())

    return cost


def with_sampled(rows: Rows, others: Rows) -> Cost:
    """Return what to expect of it where the other factor is computed, and rows of it were sampled.

    Which of those meet which of ``rows`` is not known. If the errors ``e`` of a row and what they meet are
    independent, it is ``sum(e**2) * E|v - mean|**2 + sum(e)**2 * |mean|**2`` for the N results of a row
    together: errors of one sign, as of small values that all become 0, add up on the mean of what they weigh.

    Args:
        rows: Shape (R, C).
        others: Shape (S, N): rows of the other factor.

    """
    mean = others.mean(axis=0, dtype=np.float64)
    spread = float(np.square(others - mean).sum(axis=1).mean())
    pull, count = float(mean @ mean), others.shape[1]

    def cost(grid: Encoding) -> float:
        error = (grid.restored(rows) - rows).astype(np.float64)
        power, sums = np.square(error).sum(axis=1), error.sum(axis=1)
        return float((power * spread + np.square(sums) * pull).mean() / count)

    return cost


def best_twin(low: float, high: float, bits: int, cost: Cost) -> Twin:
    """Return the twin grid of the lowest cost.

    Its border is searched, or its coarse step where values lie below zero.

    Args:
        low: The smallest value; below 0, the fine grid ends there and its border is 0.
        high: The largest value; the coarse grid ends there if ``low`` is 0.
        bits: Of a code, 2 to 8.
        cost: What is to be low.

    """
    return min(_candidates(low, high, 2 ** (bits - 1)), key=cost)


def _candidates(low: float, high: float, levels: int) -> Iterator[Twin]:
    for exponent in range(1, MOST_HALVINGS + 1):
        if low < 0:
            scale = np.asarray(-low / levels, np.float32)
            yield Twin(scale, np.asarray(levels), "twin8", exponent=exponent, levels=levels)
        else:
            yield Twin.above_zero(high, exponent, levels)


def code_bits(grid: Encoding) -> int:
    """Return how many bits tell the numbers apart that a grid of integers uses."""
    low, high = grid.limits
    return (high - low).bit_length()
