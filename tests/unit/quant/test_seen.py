"""Laws of what a histogram says of an encoding, on plain arrays."""

import math

import numpy as np
import pytest

from onnxq.quant.encodings import affine_encoding
from onnxq.quant.seen import clipped_share, expected_sqnr_db, outlier_ratio, picture
from onnxq.quant.statistics import Histogram


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("cut", [0.5, 1.0, 2.0, 10.0])
def test_share_and_noise_are_those_of_the_values(seed: int, cut: float) -> None:
    values = np.random.default_rng(seed).normal(size=20_000).astype(np.float32)
    encoding, histogram = affine_encoding(-cut, cut), Histogram.of(values)
    outside = float(((values < encoding.low) | (values > encoding.high)).mean())
    # A bin is at most 1/128 of its values wide, and the bins with an edge inside count as inside.
    width = cut / 128
    near = float((np.abs(np.abs(values) - cut) < 2 * width + float(encoding.scale)).mean())
    assert abs(clipped_share(histogram, encoding) - outside) <= near
    noise = (encoding.dequantize(encoding.quantize(values)) - values).astype(np.float64)
    real = 10 * math.log10(float((values.astype(np.float64) ** 2).sum() / (noise**2).sum()))
    assert expected_sqnr_db(histogram, encoding) == pytest.approx(real, abs=0.3)  # 1/256 of each value


def test_values_on_the_grid_have_no_noise() -> None:
    assert expected_sqnr_db(Histogram.of(np.zeros(4, np.float32)), affine_encoding(-1, 1)) == math.inf


@pytest.mark.parametrize("seed", range(5))
def test_a_picture_keeps_every_value(seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=5000).astype(np.float32)
    edges, heights = picture(Histogram.of(values), 40)
    assert (len(edges), len(heights)) == (41, 40)
    assert sum(heights) == pytest.approx(5000, abs=40 * 0.005)  # each height is rounded to 0.01
    assert picture(Histogram.of(np.zeros(0, np.float32))) == ([], [])


def test_an_outlier_is_told_by_the_median_channel() -> None:
    low, high = np.array([-1.0, -1.0, -30.0, -1.0, 0.0]), np.array([1.0, 0.5, 2.0, 1.0, 1.0])
    np.testing.assert_allclose(outlier_ratio(low, high), [1, 1, 30, 1, 1])
