"""Laws of what is expected of normal values."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from onnxq.quant.normal import Array, expected_of, joined

REACH = 8.0
"""Beyond it lies less than 2e-15 of the probability."""


@pytest.mark.parametrize("seed", range(5))
def test_the_mean_behind_a_relu_is_the_closed_form(seed: int) -> None:
    """``E[max(x, 0)] = m F(m / s) + s f(m / s)``, F and f the normal distribution and its density.

    The trapezoidal rule is off by at most ``h^2 / 8`` times the density where the function bends (below 0.4),
    for a distance ``h`` of two points; here in units of the deviation, below 2.
    """
    rng = np.random.default_rng(seed)
    mean, deviation = rng.normal(size=20), rng.uniform(0.1, 2, 20)
    closed = mean * norm.cdf(mean / deviation) + deviation * norm.pdf(mean / deviation)
    found = expected_of(lambda x: np.maximum(x, 0), mean, deviation, REACH).mean
    np.testing.assert_allclose(found, closed, rtol=0, atol=2 * 0.4 * (REACH / 1000) ** 2 / 8 + 1e-12)


def test_a_value_itself_keeps_mean_and_reach() -> None:
    mean, deviation = np.array([0.0, -1.5, 3.0]), np.array([1.0, 0.0, 0.5])
    found = expected_of(lambda x: x, mean, deviation, 4)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-14)  # weights add up to one within rounding
    np.testing.assert_array_equal(found.low, mean - 4 * deviation)
    np.testing.assert_array_equal(found.high, mean + 4 * deviation)


def test_the_smallest_value_may_lie_inside() -> None:
    def dips(x: Array) -> Array:
        return np.square(x) - 1

    found = expected_of(dips, np.zeros(1), np.ones(1), 3)
    assert (found.low[0], found.high[0]) == (-1, 8)


def test_a_sum_and_a_join_hold_both() -> None:
    one = expected_of(lambda x: x, np.array([1.0, 2.0]), np.ones(2), 2)
    both, row = one + one, joined([one, one])
    np.testing.assert_array_equal(both.facts(-1).along(-1).mean, [2, 4])
    np.testing.assert_array_equal(both.facts(-1).along(-1).low, [-2, 0])
    np.testing.assert_array_equal(row.mean, [1, 2, 1, 2])
    assert (row.facts(-1).low, row.facts(-1).high) == (-1, 4)
