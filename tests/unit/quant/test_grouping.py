"""Groups of channels, as laws on plain arrays."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxq.quant.encodings import affine_encoding
from onnxq.quant.grouping import (
    Order,
    expected_error,
    group_channels,
    group_encoding,
    group_ranges,
    group_scales,
)

SEEDS = range(10)


def ranges(seed: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    middle, half = rng.normal(size=channels), np.exp(2 * rng.normal(size=channels))
    return (middle - half).astype(np.float32), (middle + half).astype(np.float32)


@given(channels=st.integers(1, 40), count=st.integers(1, 12), seed=st.integers(0, 99))
@pytest.mark.parametrize("order", ["range", "index"])
def test_groups_are_equal_and_in_order(order: Order, channels: int, count: int, seed: int) -> None:
    low, high = ranges(seed, channels)
    groups = group_channels(low, high, count, order)
    sizes = np.bincount(groups)
    assert len(sizes) == min(count, channels)
    assert sizes.max() - sizes.min() <= 1
    if order == "index":
        assert (np.diff(groups) >= 0).all()
    for group in range(len(sizes) - 1):
        width = high.astype(np.float64) - low
        assert order == "index" or width[groups == group].max() <= width[groups == group + 1].min()


@given(channels=st.integers(1, 12), count=st.integers(1, 4), seed=st.integers(0, 99))
@pytest.mark.parametrize("order", ["range", "index"])
def test_no_other_cuts_err_less_than_fitted_ones(order: Order, channels: int, count: int, seed: int) -> None:
    low, high = ranges(seed, channels)
    found = expected_error(low, high, group_channels(low, high, count, order, "fitted"))
    places = np.argsort(
        high.astype(np.float64) - low if order == "range" else np.zeros(channels), kind="stable"
    )
    for cuts in combinations(range(1, channels), min(count, channels) - 1):
        groups = np.empty(channels, np.intp)
        groups[places] = np.searchsorted(cuts, np.arange(channels), side="right")
        assert found <= expected_error(low, high, groups) * (1 + 1e-12)  # both are sums in float64


def test_a_fitted_group_may_hold_one_channel() -> None:
    low, high = np.full(64, -1.0), np.full(64, 1.0)
    high[17] = 200
    assert np.flatnonzero(group_channels(low, high, 2, "range", "fitted")).tolist() == [17]


@pytest.mark.parametrize("seed", SEEDS)
def test_an_encoding_has_one_scale_for_each_group_and_covers_it(seed: int) -> None:
    low, high = ranges(seed, 24)
    groups = group_channels(low, high, 6, "range")
    encoding = group_encoding(low, high, groups, "uint8", 1)
    assert len(np.unique(encoding.scale)) == 6
    lows, highs = group_ranges(low, high, groups)
    assert (lows <= low).all()
    assert (highs >= high).all()
    wide = affine_encoding(low.min(), high.max())
    assert (encoding.scale <= wide.scale).all()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shift", [False, True])
def test_folded_groups_fill_the_same_range(seed: int, shift: bool) -> None:
    low, high = ranges(seed, 24)
    groups = group_channels(low, high, 6, "range")
    scale, moved = group_scales(low, high, groups, shift=shift)
    assert (moved is not None) is shift
    middle = np.zeros(24) if moved is None else moved
    lows, highs = (low - middle) / scale, (high - middle) / scale
    ends = [max(-lows[groups == group].min(), highs[groups == group].max()) for group in range(6)]
    np.testing.assert_allclose(ends, ends[0], rtol=1e-6)
    assert scale.max() == 1


def test_a_group_of_zeros_keeps_the_scale_one() -> None:
    low, high = np.array([0.0, -4.0]), np.array([0.0, 4.0])
    scale, _ = group_scales(low, high, np.array([0, 1]), shift=False)
    np.testing.assert_array_equal(scale, [1.0, 1.0])
