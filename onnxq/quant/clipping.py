"""The search for a clipped range, and what it can minimise.

A cost is a function ``(low, high) -> cost`` on arrays of one shape: () for a whole tensor, (C,) for channels,
which are searched side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onnxq.quant.encodings import Encoding, covering, family_of
from onnxq.quant.statistics import CurvedHistogram, Histogram

Array = NDArray[np.float64]
Cost = Callable[[Array, Array], Array]

MAX_LEVELS = 256
"""The most integer steps that the divergence tells apart."""

BINS_PER_LEVEL = 8
"""Bins of the linear histogram for each integer step: 2048 for an 8-bit type."""

NEGLIGIBLE = 2.0**-20
"""Values smaller than this share of the largest one round to zero and cost nothing."""


@dataclass(frozen=True)
class Steps:
    """How finely a range is searched.

    Args:
        per_octave: Candidates for each halving of an end.
        octaves: How far an end is shrunk, in halvings.
        fine: Candidates between the neighbours of the best one.

    """

    per_octave: int
    octaves: int
    fine: int

    @property
    def coarse_factors(self) -> Array:
        """Shrinking factors from 1 downwards."""
        factors: Array = 2.0 ** -(np.arange(self.per_octave * self.octaves) / self.per_octave)
        return factors

    @property
    def fine_factors(self) -> Array:
        """Factors around 1, up to one coarse step either way."""
        factors: Array = 2.0 ** (np.linspace(-1, 1, self.fine) / self.per_octave)
        return factors


FINE = Steps(per_octave=8, octaves=8, fine=17)
"""For costs that are computed from a histogram."""

QUICK = Steps(per_octave=4, octaves=4, fine=9)
"""For costs that go through the values themselves."""


BRIEF = Steps(per_octave=4, octaves=2, fine=5)
"""For costs that multiply matrices."""


def search_range(
    cost: Cost, low: ArrayLike, high: ArrayLike, symmetric: bool, steps: Steps
) -> tuple[Array, Array]:
    """Return the range inside ``low``..``high`` of the lowest cost found.

    Both ends are shrunk together, then the upper end alone, then the lower; then all three again in small
    steps around the best. The full range is the first candidate, so the result is never worse.

    Args:
        cost: What to minimise.
        low: Smallest value, shape () or (C,); zero stays inside the range.
        high: Largest value, of the same shape.
        symmetric: Search one magnitude instead of two ends.
        steps: How finely.

    """
    low, high = np.minimum(np.asarray(low, np.float64), 0), np.maximum(np.asarray(high, np.float64), 0)
    if symmetric:
        high = np.maximum(-low, high)
        low = -high
    search = _Search(cost, low, high)
    for factors, around_best in ((steps.coarse_factors, False), (steps.fine_factors, True)):
        for move_low, move_high in _moves(low, high, symmetric):
            search.shrink(factors, around_best, move_low, move_high)
    return search.best_low, search.best_high


def _moves(low: Array, high: Array, symmetric: bool) -> list[tuple[bool, bool]]:
    """Return which ends to move, in turn; an end at zero has nowhere to go."""
    if symmetric:
        return [(True, True)]
    if low.any() and high.any():
        return [(True, True), (False, True), (True, False)]
    return [(bool(low.any()), bool(high.any()))]


class _Search:
    """The best range so far, for each channel."""

    def __init__(self, cost: Cost, low: Array, high: Array) -> None:
        self.cost, self.low, self.high = cost, low, high
        self.best_low, self.best_high, self.best = low, high, cost(low, high)

    def shrink(self, factors: Array, around_best: bool, move_low: bool, move_high: bool) -> None:
        """Try each factor on the ends that move, starting from the best range or from the full one."""
        old_low, old_high = self.best_low, self.best_high
        from_low, from_high = (old_low, old_high) if around_best else (self.low, self.high)
        for factor in factors:
            low = np.maximum(from_low * factor, self.low) if move_low else old_low
            high = np.minimum(from_high * factor, self.high) if move_high else old_high
            if not around_best and self._is_hopeless(low, high):
                return
            self._offer(low, high)

    def _is_hopeless(self, low: Array, high: Array) -> bool:
        """Tell whether this range and all narrower ones cut off too much to be better than the best."""
        return isinstance(self.cost, ExpectedSquaredError) and bool(self.cost.cut_off(low, high) > self.best)

    def _offer(self, low: Array, high: Array) -> None:
        cost = self.cost(low, high)
        better = cost < self.best
        self.best = np.where(better, cost, self.best)
        self.best_low = np.where(better, low, self.best_low)
        self.best_high = np.where(better, high, self.best_high)


class ExpectedSquaredError:
    """The cost: the expected squared quantization error of values that were counted, or weighed.

    Each bin is represented by the middles of its two halves, cut to ``low``..``high``, the range of the
    values.
    """

    def __init__(
        self,
        histogram: Histogram | CurvedHistogram,
        low: float,
        high: float,
        dtype: str,
        symmetric: bool,
        limit: int | None = None,
    ) -> None:
        below, above, counts = histogram.ordered()
        largest = max(-low, high)
        seen = np.maximum(np.abs(below), np.abs(above)) > NEGLIGIBLE * largest
        below, above, weights = below[seen], above[seen], np.tile(counts[seen] / 2, 2)
        quarter = (above - below) / 4
        points = np.clip(np.concatenate([below + quarter, above - quarter]), low, high).astype(np.float32)
        order = np.argsort(points, kind="stable")
        self.points, self.weights = points[order], weights[order]
        self.dtype, self.symmetric, self.limit = dtype, symmetric, limit

    def __call__(self, low: Array, high: Array) -> Array:
        """Return the cost of one range."""
        encoding = self._encoding(low, high)
        error = (encoding.restored(self.points) - self.points).astype(np.float64)
        return np.asarray(self.weights @ (error * error))

    def cut_off(self, low: Array, high: Array) -> float:
        """Return what the values beyond a range cost at least, and so do those beyond any narrower one.

        A grid may reach a step further than its range, as its zero is exact.
        """
        encoding, points = self._encoding(low, high), self.points
        ends = np.array([low, high])
        low, high = ends + 2.0 * encoding.error_bound(ends) * (-1, 1)
        first, last = np.searchsorted(points, [low, high])
        under, over = points[:first] - low, points[last:] - high
        return float(self.weights[:first] @ (under * under) + self.weights[last:] @ (over * over))

    def _encoding(self, low: Array, high: Array) -> Encoding:
        return covering(low, high, self.dtype, symmetric=self.symmetric, limit=self.limit)


def squared_error(values: NDArray[np.float32], dtype: str, symmetric: bool, limit: int | None = None) -> Cost:
    """Return the cost: the squared quantization error of each row of ``values``, shape (C, N)."""

    def cost(low: Array, high: Array) -> Array:
        encoding = covering(low, high, dtype, symmetric=symmetric, axis=0, limit=limit)
        error = encoding.restored(values) - values
        return np.asarray(np.einsum("cn,cn->c", error, error), np.float64)

    return cost


def products_error(
    weight: NDArray[np.float32], gram: NDArray[np.float32], dtype: str, limit: int | None = None
) -> Cost:
    """Return the cost: the squared error of the products of inputs with each row of a weight, (N, C).

    A range of shape () is one for the whole weight, and costs the sum.

    Args:
        weight: One row for each output channel.
        gram: The products of the inputs, shape (C, C), which may be weighed.
        dtype: The integer type to be used; the encodings will be symmetric around zero.
        limit: The largest magnitude of their integers, if not the type's.

    """

    def cost(low: Array, high: Array) -> Array:
        axis = 0 if low.ndim else None
        error = covering(low, high, dtype, symmetric=True, axis=axis, limit=limit).restored(weight) - weight
        each = np.einsum("nc,nc->n", error @ gram, error, dtype=np.float64)
        return np.asarray(each if low.ndim else each.sum())

    return cost


def divergence(histogram: Histogram, dtype: str, limit: int | None = None) -> Cost:
    """Return the cost: how much information the clipped and rounded distribution loses.

    It is the Kullback-Leibler divergence KL(P, Q). P is the histogram in linear bins over the candidate
    range, with the values outside in its end bins. Q is P without those, averaged over the filled bins of
    each integer step. Unlike in the method's first description, the linear bins are made anew for each
    candidate, so they are as fine for a narrow range as for a wide one. Zeros are left out, as every grid
    holds them.

    Source:
        Migacz, 2017, "8-bit Inference with TensorRT", GTC.

    """
    below, above, counts = histogram.ordered()
    some = (below != 0) & (above != 0)
    below, above, counts = below[some], above[some], counts[some]
    edges = np.stack([below, above], axis=1).reshape(-1)
    after = counts.cumsum().astype(np.float64)
    cumulated = np.stack([after - counts, after], axis=1).reshape(-1)
    least, most = family_of(dtype).limits_of(dtype, limit)
    levels = min(most - least + 1, MAX_LEVELS)

    def cost(low: Array, high: Array) -> Array:
        if not after.size or high <= low:
            return np.asarray(np.inf if after.size else 0.0)
        cuts = np.interp(np.linspace(low, high, levels * BINS_PER_LEVEL + 1), edges, cumulated)
        return np.asarray(_kl(np.diff(cuts), cuts[0], after[-1] - cuts[-1]))

    return cost


def _kl(inside: Array, under: float, over: float) -> float:
    groups = inside.reshape(-1, BINS_PER_LEVEL)
    filled = groups > 0
    mean = groups.sum(axis=1, keepdims=True) / np.maximum(filled.sum(axis=1, keepdims=True), 1)
    q = np.where(filled, mean, 0).reshape(-1)
    p = inside.copy()
    p[0] += under
    p[-1] += over
    p, q = p[p > 0], np.maximum(q[p > 0], 0.5)  # half a value where Q has none
    return float(np.sum(p * np.log((p / p.sum()) / (q / q.sum()))) / p.sum())


def softmax_cross_entropy(
    rows: NDArray[np.float32], dtype: str, symmetric: bool, limit: int | None = None
) -> Cost:
    """Return the cost: the mean H(softmax(v), softmax(v_hat)) over ``rows`` of logits, shape (R, C).

    Source:
        Nagel et al., 2021, arXiv:2106.08295, section 3.1.

    """
    target = np.exp(_log_softmax(rows))

    def cost(low: Array, high: Array) -> Array:
        encoding = covering(low, high, dtype, symmetric=symmetric, limit=limit)
        logs = _log_softmax(encoding.restored(rows))
        return np.asarray(-np.einsum("rc,rc->", target, logs, dtype=np.float64) / len(rows))

    return cost


def _log_softmax(rows: NDArray[np.float32]) -> NDArray[Any]:
    shifted = rows - rows.max(axis=1, keepdims=True)
    logs: NDArray[Any] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs
