"""Laws of likeness on plain arrays."""

import numpy as np
import pytest

from onnxq.quant.encodings import symmetric_encoding
from onnxq.quant.likeness import ALIKE, bars, by_channel, likeness, sample_of


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("shape", [(64, 64), (300, 200), (8, 4, 3, 3)])
def test_a_quantized_weight_is_alike_and_another_is_not(seed: int, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(seed)
    weight, other = rng.normal(size=shape).astype(np.float32), rng.normal(size=shape).astype(np.float32)
    encoding = symmetric_encoding(float(np.abs(weight).max()), "int4")
    assert likeness(weight, encoding.dequantize(encoding.quantize(weight))) > ALIKE
    # The cosine of independent samples has deviation 1/sqrt(n); six of those are never seen.
    assert abs(likeness(weight, other)) < 6 / np.sqrt(min(weight.size, 4096))


def test_likeness_does_not_depend_on_size_and_sign_turns_it() -> None:
    weight = np.random.default_rng(0).normal(size=(50, 200))
    assert likeness(weight, 1000 * weight) == pytest.approx(1)
    assert likeness(weight, -weight) == pytest.approx(-1)
    assert likeness(weight, np.zeros_like(weight)) == 0


def test_the_sample_is_the_same_for_every_array_of_a_shape() -> None:
    ramp = np.arange(10000.0).reshape(100, 100)
    assert np.array_equal(sample_of(ramp), sample_of(ramp.copy()))
    assert len(sample_of(ramp)) == 4096
    assert np.linalg.norm(sample_of(ramp)) == pytest.approx(1)


@pytest.mark.parametrize("seed", range(5))
def test_bars_count_every_finite_value(seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(7, 11))
    values[0, 0], values[1, 1] = np.inf, np.nan
    edges, heights = bars(values, 10)
    assert (len(edges), len(heights), sum(heights)) == (11, 10, 75)
    assert bars(np.array([np.nan])) == ([], [])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("axis", [0, 1, 3])
def test_by_channel_takes_out_any_scale_of_channels(seed: int, axis: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(6, 5, 3, 4))
    sizes = [1] * 4
    sizes[axis] = -1
    scales = rng.choice([-1, 1], weight.shape[axis]) * rng.uniform(0.01, 100, weight.shape[axis])
    first, second = by_channel(weight, axis), by_channel(weight * scales.reshape(sizes), axis)
    np.testing.assert_allclose(first, second, rtol=1e-12)
    lengths = np.linalg.norm(np.moveaxis(first, axis, 0).reshape(weight.shape[axis], -1), axis=1)
    np.testing.assert_allclose(lengths, 1)


def test_a_channel_of_zeros_stays_zero() -> None:
    assert not by_channel(np.zeros((3, 4)), 0).any()
