"""Scales and shifts against outliers, as laws on plain arrays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxq.quant.migration import (
    Sample,
    best_of,
    joint_range,
    smoothing_scale,
    smoothings,
    threshold_scale,
    thresholds,
)

ALPHAS = st.floats(0, 1)
SEEDS = range(10)


def sample(seed: int, *, outlier: float = 1.0, offset: float = 0.0, channels: int = 24) -> Sample:
    """Return normal rows in which channel 0 is ``outlier`` times as wide and lies ``offset`` away."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(64, channels)).astype(np.float32)
    rows[:, 0] = rows[:, 0] * outlier + offset
    weights = [rng.normal(size=(channels, n)).astype(np.float32) for n in (8, 16)]
    return Sample(rows, rows.min(axis=0), rows.max(axis=0), weights)


@given(alpha=ALPHAS, seed=st.integers(0, 100))
def test_alpha_shares_the_difficulty(alpha: float, seed: int) -> None:
    """Channels become proportional to (X W)^(1 - alpha), and the weights that meet them to (X W)^alpha."""
    rng = np.random.default_rng(seed)
    values, weights = np.exp(rng.normal(size=9)), np.exp(rng.normal(size=9))
    scale = smoothing_scale(values, weights, alpha)
    left = (values / scale) / (values * weights) ** (1 - alpha)
    right = (weights * scale) / (values * weights) ** alpha
    np.testing.assert_allclose(left, left[0], rtol=1e-9)
    np.testing.assert_allclose(right, right[0], rtol=1e-9)
    assert np.log(scale).mean() == pytest.approx(0, abs=1e-9)


def test_channels_of_zeros_keep_their_scale() -> None:
    scale = smoothing_scale(np.array([0.0, 4.0, 1.0, 0.0]), np.array([1.0, 1.0, 0.0, 0.0]), 0.5)
    np.testing.assert_array_equal(scale, 1.0)


@given(threshold=st.floats(0.1, 10))
def test_a_threshold_bounds_every_channel_and_touches_no_other(threshold: float) -> None:
    largest = np.exp(np.random.default_rng(0).normal(size=50))
    scale = threshold_scale(largest, threshold)
    assert (largest / scale <= threshold * (1 + 1e-12)).all()
    np.testing.assert_array_equal(scale[largest <= threshold], 1.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_thresholds_go_from_the_largest_channel_to_the_median(seed: int) -> None:
    one = sample(seed, outlier=50)
    found = list(thresholds([one], 5, shift=False))
    np.testing.assert_array_equal(found[0][1], 1.0)
    assert len(found) == 5
    assert (found[-1][1] > 1).sum() == one.low.size // 2
    assert all(shift is None for _, _, shift in found)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_shift_centres_every_channel(seed: int) -> None:
    one = sample(seed, offset=30)
    for _, _, shift in thresholds([one], 3, shift=True):
        assert shift is not None
        np.testing.assert_allclose(one.high - shift, shift - one.low, rtol=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_outlier_makes_moving_worth_it(seed: int) -> None:
    """A channel 50 times as wide as the others costs the grid log2(50) of its 8 bits, 6 dB each."""
    one = sample(seed, outlier=50)
    for candidates in (smoothings([one], [0.5]), thresholds([one], 8, shift=False)):
        best = best_of([one], candidates)
        assert best is not None
        assert best.gain > 6
        assert best.error == pytest.approx(one.error(best.scale, best.shift))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_channel_far_from_zero_is_worth_a_shift(seed: int) -> None:
    one = sample(seed, offset=60)
    shifted = best_of([one], thresholds([one], 8, shift=True))
    assert shifted is not None
    assert shifted.gain > 6


def test_the_best_is_none_where_nothing_is_better() -> None:
    one = sample(0)
    assert best_of([one], []) is None
    assert best_of([one], [("worse", np.geomspace(1, 1e4, 24), None)]) is None


def test_errors_add_up_over_samples() -> None:
    one, other = sample(0, outlier=50), sample(1, outlier=5)
    candidate = ("alpha", smoothing_scale(one.largest, one.largest_weight, 0.5), None)
    both = best_of([one, other], [candidate])
    assert both is not None
    assert both.error == pytest.approx(one.error(candidate[1]) + other.error(candidate[1]))
    low, high = joint_range([one, other])
    np.testing.assert_array_equal(low, np.minimum(one.low, other.low))
    np.testing.assert_array_equal(high, np.maximum(one.high, other.high))


@pytest.mark.parametrize("bits", [4, 6, 8])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_error_is_that_of_the_grids(seed: int, bits: int) -> None:
    """Rounding to half a step on either side bounds it: |dx| |w| + (|x| + |dx|) |dw| for each product."""
    one = replace(sample(seed), bits=bits)
    step = (one.high.max() - one.low.min()) / (2**bits - 1)
    bound = size = 0.0
    for weight in one.weights:
        moved = np.abs(weight).max(axis=0) / (2 ** (bits - 1) - 1) / 2
        of_rows = (step / 2) * np.abs(weight).sum(axis=0)
        of_weights = (np.abs(one.rows) + step / 2).sum(axis=1)[:, None] * moved
        bound += np.square(of_rows + of_weights).sum()
        size += np.square(one.rows @ weight).sum()
    error = one.error(np.ones(one.low.size))
    assert 0 < error < bound / size
    assert bits == 8 or error > replace(one, bits=8).error(np.ones(one.low.size))
