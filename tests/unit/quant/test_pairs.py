"""Pairs of neighbouring weights stay within what 16 bits hold, on a grid no coarser than they ask for."""

import numpy as np
import pytest

from onnxq.quant.encodings import symmetric_encoding
from onnxq.quant.pairs import (
    LARGEST_ACTIVATION,
    LARGEST_PAIR,
    as_matrix,
    hold_pairs,
    largest_pairs,
    orders_of,
    pair_exact,
)

WINDOWS = [(1,), (2,), (64,), (65,), (4, 3, 3), (3, 2), (16, 1, 1)]


def test_the_bound_is_that_of_16_bits() -> None:
    assert LARGEST_PAIR * LARGEST_ACTIVATION <= 2**15 - 1 < (LARGEST_PAIR + 1) * LARGEST_ACTIVATION


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("seed", range(5))
def test_each_column_is_as_fine_as_its_own_pairs_allow(window: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.laplace(size=(int(np.prod(window)), 7)).astype(np.float32)
    matrix[:, 0] = 1.0  # the worst case: all alike
    matrix[:, 1] = np.where(np.arange(len(matrix)) == 0, 1.0, 0.0)  # one alone: no pair at all
    orders, largest = orders_of(window), np.abs(matrix).max(axis=0).astype(np.float64)
    encoding = pair_exact(matrix, largest, orders)
    integers = encoding.quantize(matrix)
    pairs = largest_pairs(integers, orders)
    assert (pairs <= LARGEST_PAIR).all()
    eight, seven = (symmetric_encoding(largest, axis=1, limit=limit).scale for limit in (None, 63))
    # no finer than all of int8 is; at 63.5 steps two halves round up to 64 each, and that is LARGEST_PAIR
    assert (encoding.scale >= eight).all()
    assert (encoding.scale <= seven * (1 + 1e-6)).all()
    # where a step grew, it grew for a pair: that lies within the rounding of two numbers and one more step
    assert (pairs[encoding.scale > eight] >= LARGEST_PAIR - 4).all()
    assert encoding.scale[1] == eight[1]


@pytest.mark.parametrize("window", WINDOWS)
def test_of_two_too_large_the_larger_gives_way(window: tuple[int, ...]) -> None:
    rng, orders = np.random.default_rng(0), orders_of(window)
    integers = rng.integers(-127, 128, (int(np.prod(window)), 9)).astype(np.int8)
    held = hold_pairs(integers, orders)
    assert held.dtype == np.int8
    assert (largest_pairs(held, orders) <= LARGEST_PAIR).all()
    assert (np.abs(held.astype(int)) <= np.abs(integers.astype(int))).all()
    fitting = largest_pairs(integers, orders) <= LARGEST_PAIR
    np.testing.assert_array_equal(held[:, fitting], integers[:, fitting])


def test_a_window_is_read_by_channels_and_by_places() -> None:
    weight = np.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)
    matrix, (channels, places) = as_matrix(weight, 0), orders_of((3, 2, 2))
    np.testing.assert_array_equal(matrix[channels].T, weight.reshape(2, -1))
    np.testing.assert_array_equal(matrix[places].T, np.moveaxis(weight, 1, -1).reshape(2, -1))
    assert len(orders_of((12,))) == 1
