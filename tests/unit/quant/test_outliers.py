"""Which channels are left out of a range, and what rounding the others costs."""

import itertools

import numpy as np
import pytest

from onnxq.quant.encodings import affine_encoding
from onnxq.quant.outliers import narrowest_range, product_error


@pytest.mark.parametrize("seed", range(20))
def test_no_other_choice_of_channels_is_narrower(seed: int) -> None:
    rng = np.random.default_rng(seed)
    low, high = -rng.exponential(size=7), rng.exponential(size=7)
    found = narrowest_range(low, high, 3)
    widths = [
        np.delete(high, left_out).max() - np.delete(low, left_out).min()
        for left_out in itertools.combinations(range(7), 3)
    ]
    assert found.high - found.low == min(widths)
    assert (np.delete(high, found.channels) <= found.high).all()
    assert (np.delete(low, found.channels) >= found.low).all()


def test_zero_stays_inside() -> None:
    found = narrowest_range(np.array([1.0, 2.0]), np.array([3.0, 9.0]), 1)
    assert (found.low, found.high, found.channels.tolist()) == (0.0, 3.0, [1])


@pytest.mark.parametrize("seed", range(5))
def test_a_finer_grid_costs_less_by_the_square_of_its_step(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.uniform(-1, 1, (400, 16)).astype(np.float32)
    weight = rng.normal(size=(16, 8)).astype(np.float32)
    coarse = product_error(rows, weight, affine_encoding(-8, 8))
    fine = product_error(rows, weight, affine_encoding(-2, 2))
    # Rounding errors are spread evenly over a step: 51,200 squares of them vary by less than 5 %.
    assert coarse / fine == pytest.approx(16, rel=0.1)
    assert product_error(np.zeros((3, 16)), weight, affine_encoding(-8, 8)) == 0
