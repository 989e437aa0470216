"""Observers: what NumPy computes on the whole array, for any split into batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnxq.calibration.observers import MOMENTUM, ROW_LIMITS, ValueObserver, observe_array
from onnxq.errors import PreconditionError
from onnxq.quant.facts import Facts, Need, Stat
from onnxq.quant.histogram import Histogram

ALL = frozenset(Stat)
splits = st.lists(st.integers(0, 40), max_size=6).map(sorted)


def observe(
    values: NDArray[np.float32], cuts: list[int], axis: int = -1, stats: frozenset[Stat] = ALL
) -> Facts:
    observer = ValueObserver([Need("x", stats, axis)])
    for part in np.split(values, cuts):
        if part.size:
            observer.update(observer.blocks(part, values.ndim))
    return observer.facts()


@pytest.mark.parametrize(
    ("shape", "axis"), [((40, 6), -1), ((40, 5, 3), -1), ((40, 3, 4, 5), -3), ((40,), -1)]
)
@given(cuts=splits, seed=st.integers(0, 5))
def test_any_split_gives_what_numpy_gives(
    shape: tuple[int, ...], axis: int, cuts: list[int], seed: int
) -> None:
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    facts = observe(x, cuts, axis)
    assert (facts.count, facts.low, facts.high) == (x.size, x.min(), x.max())
    table = np.moveaxis(x[:, None] if x.ndim == 1 else x, axis, -1)
    table = table.reshape(-1, table.shape[-1])
    along = facts.along(axis)
    np.testing.assert_array_equal(along.low, table.min(axis=0))
    np.testing.assert_array_equal(along.high, table.max(axis=0))
    np.testing.assert_array_equal(along.mean, observe(x, [], axis).along(axis).mean)
    # float64 sums: what remains is rounding the result to float32.
    np.testing.assert_allclose(along.mean, table.mean(axis=0, dtype=np.float64), rtol=1e-6, atol=1e-7)
    assert facts.histogram is not None
    np.testing.assert_array_equal(facts.histogram.counts, Histogram.of(x).counts)
    low, high = float(x[0].min()), float(x[0].max())
    for sample in x[1:]:
        low = MOMENTUM * low + (1 - MOMENTUM) * float(sample.min())
        high = MOMENTUM * high + (1 - MOMENTUM) * float(sample.max())
    assert facts.average == (low, high)


@given(cuts=st.lists(st.integers(0, 3000), max_size=6).map(sorted))
def test_sampled_rows_do_not_depend_on_the_split(cuts: list[int]) -> None:
    x = np.arange(6000, dtype=np.float32).reshape(3000, 2)
    rows = observe(x, cuts).along(-1).rows
    assert rows is not None
    assert rows.shape == (ROW_LIMITS[1], 2)
    np.testing.assert_array_equal(rows, observe(x, []).along(-1).rows)
    assert (np.diff(rows[:, 0]) > 0).all(), "each is a row of x, once, in its order"
    # A uniform choice of 512 of 3000: the mean of the places has a standard deviation of 35.
    assert rows[:, 0].mean() / 2 == pytest.approx(1500, abs=5 * 35)


def test_few_rows_are_all_kept() -> None:
    x = np.random.default_rng(0).normal(size=(30, 7)).astype(np.float32)
    np.testing.assert_array_equal(observe(x, [4, 11]).along(-1).rows, x)


def test_wide_rows_are_fewer() -> None:
    x = np.zeros((100, 30522), np.float32)
    rows = observe(x, [50], stats=frozenset({Stat.ROWS})).along(-1).rows
    assert rows is not None
    assert len(rows) == ROW_LIMITS[0]


@given(cuts=st.lists(st.integers(0, 700), max_size=6).map(sorted))
def test_products_of_channels_do_not_depend_on_the_split(cuts: list[int]) -> None:
    x = np.random.default_rng(0).normal(size=(700, 3, 5)).astype(np.float32)
    gram = observe(x, cuts).along(-1).gram
    assert gram is not None
    np.testing.assert_array_equal(gram, observe(x, []).along(-1).gram)
    rows = x.reshape(-1, 5).astype(np.float64)
    # Each entry adds up 2100 products in float32, each rounded to 2^-24 of the sum of their magnitudes.
    bound = 2100 * 2.0**-24 * (np.abs(rows).T @ np.abs(rows))
    assert (np.abs(gram - rows.T @ rows) <= bound).all()


def test_channels_of_images_are_rows_of_pixels() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    rows = observe(x, [1], axis=-3).along(-3).rows
    np.testing.assert_array_equal(rows, x.transpose(0, 2, 3, 1).reshape(-1, 3))


def test_only_what_is_asked_for_is_kept() -> None:
    facts = observe_array(np.array([1.0, -3.0]), [Stat.HISTOGRAM])
    assert facts.has([Stat.RANGE, Stat.HISTOGRAM])
    assert not any(facts.has([stat]) for stat in (Stat.AVERAGE, Stat.CHANNEL_RANGE, Stat.ROWS))


def test_a_weight_has_channels_along_any_axis() -> None:
    w = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    for axis in (-1, -2):
        along = observe_array(w, ALL, axis).along(axis)
        np.testing.assert_array_equal(along.high, w.max(axis=1 - axis % 2))
        np.testing.assert_array_equal(along.rows, w.T if axis == -2 else w)


def test_a_scalar() -> None:
    facts = observe_array(np.float32(2), ALL)
    assert (facts.count, facts.low, facts.high) == (1, 2, 2)


def test_several_wishes_for_one_value() -> None:
    wishes = [Need("x", frozenset({Stat.AVERAGE})), Need("x", frozenset({Stat.CHANNEL_RANGE}), axis=-2)]
    observer = ValueObserver(wishes)
    observer.update(observer.blocks(np.ones((2, 3, 4), np.float32), 3))
    facts = observer.facts()
    assert facts.has([Stat.AVERAGE, Stat.CHANNEL_RANGE], axis=-2)
    assert not facts.has([Stat.CHANNEL_RANGE], axis=-1)
    assert facts.along(-2).high is not None
    assert facts.along(-2).high.shape == (3,)


@given(cuts=st.lists(st.integers(0, 20), max_size=3).map(sorted))
def test_two_channel_axes_of_one_value_give_what_each_gives_alone(cuts: list[int]) -> None:
    x = np.random.default_rng(0).normal(size=(20, 3, 4, 5)).astype(np.float32)
    observer = ValueObserver([Need("x", ALL, axis) for axis in (-3, -1)])
    for part in np.split(x, cuts):
        if part.size:
            observer.update(observer.blocks(part, x.ndim))
    facts = observer.facts()
    assert facts.has(ALL, axis=-3)
    assert facts.has(ALL, axis=-1)
    for axis in (-3, -1):
        alone = observe(x, [], axis)
        assert (facts.count, facts.low, facts.high) == (alone.count, alone.low, alone.high)
        for part in ("low", "high", "mean", "rows", "gram"):
            wanted = getattr(alone.along(axis), part)
            np.testing.assert_array_equal(getattr(facts.along(axis), part), wanted)


@pytest.mark.parametrize("axis", [-3, -4])
def test_an_axis_that_holds_no_channels(axis: int) -> None:
    observer = ValueObserver([Need("x", ALL, axis)])
    with pytest.raises(PreconditionError, match=f"value 'x': axis {axis} of 3 axes cannot hold its channels"):
        observer.blocks(np.ones((2, 3, 4), np.float32), 3)


def test_channels_that_come_and_go() -> None:
    observer = ValueObserver([Need("x", ALL)])
    observer.update(observer.blocks(np.ones((2, 3), np.float32), 2))
    with pytest.raises(PreconditionError, match="its axis -1 has 3 channels in one sample and 4 in another"):
        observer.update(observer.blocks(np.ones((2, 4), np.float32), 2))
