"""The histogram with data-independent bins."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxq.quant.statistics.histogram import BIN_COUNT, Histogram

floats = hnp.arrays(
    np.float32, st.integers(1, 200), elements=st.floats(allow_nan=False, allow_infinity=False, width=32)
)


@given(floats)
def test_every_value_lies_in_its_bin(values: np.ndarray) -> None:
    low, high, counts = Histogram.of(values).ordered()
    assert (np.diff(low) >= 0).all()
    # Bins are half open, away from zero; a value on an edge may be counted on either side of it.
    inside = (low[:, None] <= values) & (values <= high[:, None])
    assert inside.any(axis=0).all()
    assert (inside.sum(axis=1) >= counts).all()


@given(floats, st.floats(0, 1))
def test_quantiles_are_numpys_up_to_a_bin(values: np.ndarray, share: float) -> None:
    exact = float(np.quantile(values.astype(np.float64), share))
    rank = share * (values.size - 1)
    near = np.sort(values)[[int(np.floor(rank)), int(np.ceil(rank))]].astype(np.float64)
    # Each of the two order statistics is known up to its bin: 1/128 of it, or the smallest bin.
    width = np.abs(near).max() / 128 + np.finfo(np.float32).tiny
    assert Histogram.of(values).quantile(share) == pytest.approx(exact, rel=0, abs=width)


def test_more_values_than_are_counted_at_once() -> None:
    values = np.random.default_rng(0).normal(size=(3, 1 << 19)).astype(np.float32)
    histogram = Histogram.of(values)
    assert histogram.count == values.size
    upper = values.reshape(-1).view(np.uint32) >> 16
    np.testing.assert_array_equal(histogram.counts, np.bincount(upper, minlength=BIN_COUNT))
