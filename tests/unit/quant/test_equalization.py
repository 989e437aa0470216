"""Laws of cross-layer equalization on plain arrays."""

from __future__ import annotations

import numpy as np
import pytest

from onnxq.quant.equalization import LEAST_REACH, equalizing_scale, evening_scale, largest_by_channel


@pytest.mark.parametrize("seed", range(10))
def test_both_layers_end_with_channels_of_equal_weight(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = (rng.normal(size=(8, 5)) * rng.uniform(0.01, 100, (8, 1)) for _ in range(2))
    scale = equalizing_scale(largest_by_channel(first, 0), largest_by_channel(second, 0))
    made, met = first / scale[:, None], second * scale[:, None]
    np.testing.assert_allclose(largest_by_channel(made, 0), largest_by_channel(met, 0), rtol=1e-12)
    products = largest_by_channel(first, 0) * largest_by_channel(second, 0)
    np.testing.assert_allclose(largest_by_channel(made, 0) ** 2, products, rtol=1e-12)


def test_a_channel_without_weight_keeps_its_scale() -> None:
    scale = equalizing_scale(np.array([0.0, 4.0, 4.0]), np.array([1.0, 0.0, 1.0]))
    np.testing.assert_array_equal(scale, [1, 1, 2])


def test_channels_lie_along_any_axis() -> None:
    weight = np.random.default_rng(0).normal(size=(4, 6, 3, 3))
    np.testing.assert_array_equal(largest_by_channel(weight, 1), np.abs(weight).max(axis=(0, 2, 3)))
    np.testing.assert_array_equal(largest_by_channel(weight, -4), np.abs(weight).max(axis=(1, 2, 3)))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_group_has_input_channels_of_its_own(groups: int) -> None:
    weight = np.random.default_rng(groups).normal(size=(8, 3, 5))
    expected = [
        np.abs(weight[g * 8 // groups : (g + 1) * 8 // groups, c]).max()
        for g in range(groups)
        for c in range(3)
    ]
    np.testing.assert_array_equal(largest_by_channel(weight, 1, groups), expected)


@pytest.mark.parametrize("alpha", [0, 0.25, 0.5, 1])
@pytest.mark.parametrize("seed", range(3))
def test_even_channels_reach_the_rest_of_the_power(seed: int, alpha: float) -> None:
    largest = np.random.default_rng(seed).uniform(1, 1 / LEAST_REACH, 9)
    np.testing.assert_allclose(largest / evening_scale(largest, alpha), largest ** (1 - alpha), rtol=1e-12)


def test_a_channel_that_was_hardly_seen_is_widened_by_a_bounded_factor() -> None:
    np.testing.assert_allclose(evening_scale(np.array([0.0, 100.0, 1e-9]), 0.5), [1, 10, 1])
    np.testing.assert_array_equal(evening_scale(np.zeros(3), 0.5), np.ones(3))
