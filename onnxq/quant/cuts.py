"""Cutting the values of a tensor into ranges, so that each range gets a grid of its own.

Values come as rows: one row for the whole tensor, one for each channel, or one for each block. All rows
are cut at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
Mask = NDArray[np.bool_]

COARSE = 16
"""Into how many intervals the positions of a cut are divided first."""

CLOSE = 1e-9
"""A gain of less than this part of the cost is not looked for."""


def best_cuts(rows: NDArray[np.floating[Any]], parts: int, objective: str) -> Indices:
    """Return where each row, sorted, is cut into ``parts`` so that the sum of the parts' costs is least.

    The cost of a part is the sum of squared distances to its mean (``kmeans``), or the number of its values
    times its squared range (``range``), which is what rounding to a uniform grid costs. Both grow with each
    value that joins a part, so what surely lies between two cuts bounds a box of cuts from below. Boxes that
    may hold something better are halved until each is one vector of cuts: the result is the optimum, up to
    1e-9 of its cost, and no start is drawn.

    Args:
        rows: Shape (R, N), finite, N > 0.
        parts: How many, at least 1.
        objective: A key of ``OBJECTIVES``.

    Returns:
        Shape (R, parts - 1), ascending: how many of a row's smallest values lie below each cut.

    """
    ordered = np.sort(rows.astype(np.float64), axis=1)
    chosen = OBJECTIVES[objective](ordered)
    boxes = _first_boxes(len(rows), ordered.shape[1], parts - 1)
    best = _Best(chosen, np.full(len(rows), np.inf), np.zeros((len(rows), parts - 1), np.intp))
    while len(boxes.row):
        best.improve(boxes)
        boxes = boxes.where(chosen.least(boxes) < (1 - CLOSE) * best.costs[boxes.row])
        boxes = boxes.where(chosen.possible(boxes)).where_several().halved()
    return best.cuts


@dataclass(frozen=True)
class _Boxes:
    """Sets of cuts: of a row, every cut from ``low`` to ``high``, shapes (B,), (B, C) and (B, C)."""

    row: Indices
    low: Indices
    high: Indices

    def where(self, mask: Mask) -> _Boxes:
        return _Boxes(self.row[mask], self.low[mask], self.high[mask])

    def where_several(self) -> _Boxes:
        """Keep the boxes of more than one vector of cuts."""
        return self.where(np.asarray((self.low < self.high).any(axis=1)))

    def halved(self) -> _Boxes:
        """Halve each box along every cut, and keep the halves in which cuts can ascend."""
        middle = (self.low + self.high) // 2
        sides = list(product((False, True), repeat=self.low.shape[1]))
        low = np.concatenate([np.where(upper, middle + 1, self.low) for upper in sides])
        high = np.concatenate([np.where(upper, self.high, middle) for upper in sides])
        right = (low <= high).all(axis=1) & (low[:, :-1] <= high[:, 1:]).all(axis=1)
        return _Boxes(np.tile(self.row, len(sides)), low, high).where(np.asarray(right))


def _first_boxes(count: int, length: int, cuts: int) -> _Boxes:
    edges = np.unique(np.linspace(0, length + 1, COARSE + 1).astype(np.intp))
    places = [place for place in product(range(len(edges) - 1), repeat=cuts) if list(place) == sorted(place)]
    chosen = np.array(places, np.intp).reshape(len(places), cuts)
    row = np.repeat(np.arange(count), len(places))
    return _Boxes(row, np.tile(edges[chosen], (count, 1)), np.tile(edges[chosen + 1] - 1, (count, 1)))


@dataclass
class _Objective(ABC):
    """What cuts of sorted rows, shape (R, N), cost."""

    ordered: Floats

    @abstractmethod
    def cost(self, row: Indices, start: Indices, stop: Indices) -> Floats:
        """Return the costs of parts ``start:stop`` of rows; 0 where that is empty. Any equal shapes."""

    def possible(self, boxes: _Boxes) -> Mask:
        """Tell which boxes may hold the optimum, beyond what ``least`` tells."""
        return np.ones(len(boxes.row), np.bool_)

    def least(self, boxes: _Boxes) -> Floats:
        """Return a lower bound for each box: the cost of what lies between its cuts in any case."""
        return self.total(boxes.row, boxes.low, boxes.high)

    def total(self, row: Indices, low: Indices, high: Indices) -> Floats:
        """Add up the parts that start at each ``high`` and stop at the next ``low``."""
        starts, stops = _between(low, high, self.ordered.shape[1])
        total: Floats = self.cost(row[:, np.newaxis], starts, np.maximum(starts, stops)).sum(axis=1)
        return total


@dataclass
class _Best:
    """The best cuts of each row so far, and their costs."""

    objective: _Objective
    costs: Floats
    cuts: Indices

    def improve(self, boxes: _Boxes) -> None:
        """Try the middle of each box."""
        cuts = np.maximum.accumulate((boxes.low + boxes.high) // 2, axis=1)
        costs = self.objective.total(boxes.row, cuts, cuts)
        least = self.costs.copy()
        np.minimum.at(least, boxes.row, costs)
        winners = (costs == least[boxes.row]) & (costs < self.costs[boxes.row])
        self.cuts[boxes.row[winners]] = cuts[winners]
        self.costs = least


@dataclass
class _KMeans(_Objective):
    """Squared distances to the mean of the part."""

    _sums: Floats = field(init=False)
    _squares: Floats = field(init=False)

    def __post_init__(self) -> None:
        """Centre the rows, so that sums of squares keep their digits, and add them up."""
        self.ordered = self.ordered - self.ordered.mean(axis=1, keepdims=True)
        self._sums, self._squares = _running(self.ordered), _running(np.square(self.ordered))

    def cost(self, row: Indices, start: Indices, stop: Indices) -> Floats:
        """Return the sum of squares less the squared sum by the number."""
        total = self._sums[row, stop] - self._sums[row, start]
        spread = self._squares[row, stop] - self._squares[row, start]
        cost: Floats = np.maximum(spread - np.square(total) / np.maximum(stop - start, 1), 0)
        return cost

    def possible(self, boxes: _Boxes) -> Mask:
        """Keep the boxes where each cut can lie at the middle between two means, as it does at the optimum.

        A part's mean is least where it starts and stops first, and greatest where it does so last.
        """
        row, length = boxes.row[:, np.newaxis], self.ordered.shape[1]
        padded = np.pad(self.ordered, ((0, 0), (1, 1)), constant_values=(-np.inf, np.inf))
        least, most = (self._means(row, *_between(cuts, cuts, length)) for cuts in (boxes.low, boxes.high))
        slack = CLOSE * (self.ordered[boxes.row, -1:] - self.ordered[boxes.row, :1])
        above = padded[row, boxes.low] <= (most[1][:, :-1] + most[1][:, 1:]) / 2 + slack
        below = (least[0][:, :-1] + least[0][:, 1:]) / 2 - slack <= padded[row, boxes.high + 1]
        mask: Mask = np.asarray((above & below).all(axis=1))
        return mask

    def _means(self, row: Indices, start: Indices, stop: Indices) -> tuple[Floats, Floats]:
        """Return the means; for empty parts, what bounds them from below and from above."""
        total = self._sums[row, stop] - self._sums[row, start]
        mean, empty = total / np.maximum(stop - start, 1), stop <= start
        return np.where(empty, -np.inf, mean), np.where(empty, np.inf, mean)


@dataclass
class _Range(_Objective):
    """The number of values times their squared range."""

    def cost(self, row: Indices, start: Indices, stop: Indices) -> Floats:
        """Return it from the outermost values."""
        last = self.ordered.shape[1] - 1
        width = self.ordered[row, np.maximum(stop - 1, 0)] - self.ordered[row, np.minimum(start, last)]
        total: Floats = (stop - start) * np.square(width)
        return total


OBJECTIVES: dict[str, type[_Objective]] = {"kmeans": _KMeans, "range": _Range}
"""What cuts may be chosen for, by name."""


def _between(low: Indices, high: Indices, length: int) -> tuple[Indices, Indices]:
    """Return where parts start and stop, shape (B, C + 1): each starts at a ``high``, stops at a ``low``."""
    ends = len(low), 1
    return np.hstack([np.zeros(ends, np.intp), high]), np.hstack([low, np.full(ends, length, np.intp)])


def _running(values: Floats) -> Floats:
    return np.pad(np.cumsum(values, axis=1), ((0, 0), (1, 0)))
