"""Laws of the means that bias correction works with."""

from __future__ import annotations

import numpy as np
import pytest

from onnxq.quant.bias_correction import mean_output, rounding_error
from onnxq.quant.encodings import symmetric_encoding


@pytest.mark.parametrize("seed", range(5))
def test_the_mean_of_a_product_is_the_product_of_the_mean(seed: int) -> None:
    rng = np.random.default_rng(seed)
    inputs, weight = rng.normal(size=(50, 6)), rng.normal(size=(4, 6))
    expected = (inputs @ weight.T).mean(axis=0)
    np.testing.assert_allclose(mean_output(weight, inputs.mean(axis=0)), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_a_group_sees_its_own_channels_at_every_tap(groups: int) -> None:
    rng = np.random.default_rng(groups)
    weight, mean = rng.normal(size=(12, 6 // groups, 3, 3)), rng.normal(size=6)
    expected = [
        sum(weight[m, c].sum() * mean[m // (12 // groups) * (6 // groups) + c] for c in range(6 // groups))
        for m in range(12)
    ]
    np.testing.assert_allclose(mean_output(weight, mean), expected, rtol=1e-12, atol=1e-12)


def test_the_rounding_error_is_within_half_a_step() -> None:
    weight = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    encoding = symmetric_encoding(np.abs(weight).max(axis=1), axis=0)
    error = rounding_error(weight, encoding)
    assert np.abs(error).max() > 0
    assert (np.abs(error) <= encoding.error_bound(weight) * (1 + 1e-6)).all()
