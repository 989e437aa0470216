"""Laws of what is expected of normal values."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from onnxq.quant.normal import Array, expected_of, joined
from onnxq.quant.statistics import ChannelRange, Mean

STEP = 8.0 / 1000
"""The distance of two points of the integral, in deviations."""


@pytest.mark.parametrize("seed", range(5))
def test_the_mean_behind_a_relu_is_the_closed_form(seed: int) -> None:
    """``E[max(x, 0)] = m F(m / s) + s f(m / s)``, F and f the normal distribution and its density.

    The trapezoidal rule is off by at most ``h^2 / 8`` times the density where the function bends (below 0.4),
    for a distance ``h`` of two points; here in units of the deviation, below 2.
    """
    rng = np.random.default_rng(seed)
    mean, deviation = rng.normal(size=20), rng.uniform(0.1, 2, 20)
    found = expected_of(lambda x: np.maximum(x, 0), mean, deviation, rng.uniform(1, 6)).mean
    np.testing.assert_allclose(found, _relu_mean(mean, deviation), rtol=0, atol=2 * 0.4 * STEP**2 / 8 + 1e-12)


@pytest.mark.parametrize("reach", [1.0, 3.0, 6.0])
def test_the_reach_cuts_the_range_and_no_mean(reach: float) -> None:
    """At -3 deviations a Relu lets through what lies beyond three of them alone.

    The rule is off by ``h^2 / 8`` times the density at the bend, which is less than 10 times the mean here.
    """
    mean, deviation = np.array([0.0, -2.0, -3.0]), np.ones(3)
    relu = expected_of(lambda x: np.maximum(x, 0), mean, deviation, reach)
    np.testing.assert_allclose(relu.mean, _relu_mean(mean, deviation), rtol=10 * 0.4 * STEP**2)
    np.testing.assert_array_equal(relu.high, np.maximum(mean + reach, 0))
    clip = expected_of(lambda x: np.clip(x, -2.5, 1), mean, deviation, reach)
    closed = -2.5 + _relu_mean(mean + 2.5, deviation) - _relu_mean(mean - 1, deviation)
    np.testing.assert_allclose(clip.mean, closed, rtol=0, atol=2 * 0.4 * STEP**2 / 8)
    np.testing.assert_array_equal(clip.low, np.clip(mean - reach, -2.5, 1))


def _relu_mean(mean: Array, deviation: Array) -> Array:
    closed: Array = mean * norm.cdf(mean / deviation) + deviation * norm.pdf(mean / deviation)
    return closed


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
    np.testing.assert_array_equal(both.facts(-1).known(Mean).values, [2, 4])
    np.testing.assert_array_equal(both.facts(-1).known(ChannelRange).low, [-2, 0])
    np.testing.assert_allclose(row.mean, [1, 2, 1, 2], rtol=1e-14)  # weights add up to one within rounding
    assert (row.facts(-1).low, row.facts(-1).high) == (-1, 4)
