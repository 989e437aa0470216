from __future__ import annotations

from itertools import combinations_with_replacement, pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxq.quant.cuts import best_cuts

Array = NDArray[np.float64]


def squared_distance(part: Array) -> float:
    return float(np.square(part - part.mean()).sum()) if part.size else 0.0


def squared_range(part: Array) -> float:
    return part.size * float(np.ptp(part)) ** 2 if part.size else 0.0


COSTS = {"kmeans": squared_distance, "range": squared_range}


def cost_of(row: Array, cuts: list[int], objective: str) -> float:
    ends = [0, *cuts, len(row)]
    return sum(COSTS[objective](np.sort(row)[a:b]) for a, b in pairwise(ends))


def least_cost(row: Array, parts: int, objective: str) -> float:
    """Try all cuts."""
    every = combinations_with_replacement(range(len(row) + 1), parts - 1)
    return min(cost_of(row, list(cuts), objective) for cuts in every)


def assert_optimal(rows: Array, parts: int, objective: str) -> None:
    cuts = best_cuts(rows, parts, objective)
    assert cuts.shape == (len(rows), parts - 1)
    for row, found in zip(rows, cuts, strict=True):
        # Sums of N squares are rounded N times: 1e-12 of the total is more than that for 40 values.
        slack = 1e-9 * least_cost(row, parts, objective) + 1e-12 * float(np.square(row).sum())
        assert cost_of(row, list(found), objective) <= least_cost(row, parts, objective) + slack


@pytest.mark.parametrize("objective", COSTS)
@pytest.mark.parametrize("seed", range(12))
def test_the_cuts_are_the_best_of_all(objective: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    length, parts = int(rng.integers(1, 40)), seed % 3 + 1
    assert_optimal(rng.standard_t(3, size=(3, length)), parts, objective)


@pytest.mark.parametrize("objective", COSTS)
@pytest.mark.parametrize("seed", range(4))
def test_equal_values_may_lie_on_either_side(objective: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert_optimal(rng.integers(-3, 3, size=(3, 25)).astype(np.float64), 3, objective)


@pytest.mark.parametrize("objective", COSTS)
def test_a_row_of_one_value_costs_nothing(objective: str) -> None:
    assert_optimal(np.full((2, 9), 0.7), 3, objective)


def test_three_clusters_far_apart_are_found() -> None:
    rng = np.random.default_rng(0)
    row = np.concatenate([rng.normal(centre, 0.1, 3000) for centre in (-5, 0, 5)])
    assert best_cuts(rng.permutation(row)[np.newaxis], 3, "kmeans").tolist() == [[3000, 6000]]


def test_the_order_of_the_values_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(4, 700))
    np.testing.assert_array_equal(best_cuts(rows, 3, "kmeans"), best_cuts(rows[:, ::-1], 3, "kmeans"))
