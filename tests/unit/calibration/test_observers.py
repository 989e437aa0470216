"""Observers: what NumPy computes on the whole array, for any split into batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnxq.calibration.observers import ValueObserver, observe_array
from onnxq.errors import PreconditionError
from onnxq.quant.facts import Facts, Kind, Need
from onnxq.quant.statistics import STATISTICS, Average, ChannelRange, Gram, Histogram, Mean, Range, Rows
from onnxq.quant.statistics.average import MOMENTUM
from onnxq.quant.statistics.rows import LIMITS

ALL = frozenset(STATISTICS.values())
splits = st.lists(st.integers(0, 40), max_size=6).map(sorted)


def observe(
    values: NDArray[np.float32], cuts: list[int], axis: int = -1, stats: frozenset[Kind] = ALL
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
    along, mean = facts.known(ChannelRange, axis), facts.known(Mean, axis).values
    np.testing.assert_array_equal(along.low, table.min(axis=0))
    np.testing.assert_array_equal(along.high, table.max(axis=0))
    np.testing.assert_array_equal(mean, observe(x, [], axis).known(Mean, axis).values)
    # float64 sums: what remains is rounding the result to float32.
    np.testing.assert_allclose(mean, table.mean(axis=0, dtype=np.float64), rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(facts.known(Histogram).counts, Histogram.of(x).counts)
    low, high = float(x[0].min()), float(x[0].max())
    for sample in x[1:]:
        low = MOMENTUM * low + (1 - MOMENTUM) * float(sample.min())
        high = MOMENTUM * high + (1 - MOMENTUM) * float(sample.max())
    average = facts.known(Average)
    assert (average.low, average.high) == (low, high)


@given(cuts=st.lists(st.integers(0, 3000), max_size=6).map(sorted))
def test_sampled_rows_do_not_depend_on_the_split(cuts: list[int]) -> None:
    x = np.arange(6000, dtype=np.float32).reshape(3000, 2)
    rows = observe(x, cuts).known(Rows).values
    assert rows.shape == (LIMITS[1], 2)
    np.testing.assert_array_equal(rows, observe(x, []).known(Rows).values)
    assert (np.diff(rows[:, 0]) > 0).all(), "each is a row of x, once, in its order"
    # A uniform choice of 512 of 3000: the mean of the places has a standard deviation of 35.
    assert rows[:, 0].mean() / 2 == pytest.approx(1500, abs=5 * 35)


def test_few_rows_are_all_kept() -> None:
    x = np.random.default_rng(0).normal(size=(30, 7)).astype(np.float32)
    np.testing.assert_array_equal(observe(x, [4, 11]).known(Rows).values, x)


def test_wide_rows_are_fewer() -> None:
    x = np.zeros((100, 30522), np.float32)
    rows = observe(x, [50], stats=frozenset({Rows})).known(Rows).values
    assert len(rows) == LIMITS[0]


@given(cuts=st.lists(st.integers(0, 700), max_size=6).map(sorted))
def test_products_of_channels_do_not_depend_on_the_split(cuts: list[int]) -> None:
    x = np.random.default_rng(0).normal(size=(700, 3, 5)).astype(np.float32)
    found = observe(x, cuts).known(Gram)
    np.testing.assert_array_equal(found.values, observe(x, []).known(Gram).values)
    gram, rows = found.products, x.reshape(-1, 5).astype(np.float64)
    np.testing.assert_array_equal(found.values[-1, -1], len(rows))
    # Each entry adds up 2100 products in float32, each rounded to 2^-24 of the sum of their magnitudes.
    bound = 2100 * 2.0**-24 * (np.abs(rows).T @ np.abs(rows))
    assert (np.abs(gram - rows.T @ rows) <= bound).all()


def test_channels_of_images_are_rows_of_pixels() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    rows = observe(x, [1], axis=-3).known(Rows, -3).values
    np.testing.assert_array_equal(rows, x.transpose(0, 2, 3, 1).reshape(-1, 3))


def test_only_what_is_asked_for_is_kept() -> None:
    facts = observe_array(np.array([1.0, -3.0]), [Histogram])
    assert facts.has([Range, Histogram])
    assert not any(facts.has([stat]) for stat in (Average, ChannelRange, Rows))


def test_a_weight_has_channels_along_any_axis() -> None:
    w = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    for axis in (-1, -2):
        facts = observe_array(w, ALL, axis)
        np.testing.assert_array_equal(facts.known(ChannelRange, axis).high, w.max(axis=1 - axis % 2))
        np.testing.assert_array_equal(facts.known(Rows, axis).values, w.T if axis == -2 else w)


def test_a_scalar() -> None:
    facts = observe_array(np.float32(2), ALL)
    assert (facts.count, facts.low, facts.high) == (1, 2, 2)


def test_several_wishes_for_one_value() -> None:
    wishes = [Need("x", frozenset({Average})), Need("x", frozenset({ChannelRange}), axis=-2)]
    observer = ValueObserver(wishes)
    observer.update(observer.blocks(np.ones((2, 3, 4), np.float32), 3))
    facts = observer.facts()
    assert facts.has([Average, ChannelRange], axis=-2)
    assert not facts.has([ChannelRange], axis=-1)
    assert facts.known(ChannelRange, -2).high.shape == (3,)


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
        for part in alone.along(axis):
            for name, wanted in vars(part).items():
                np.testing.assert_array_equal(getattr(facts.known(type(part), axis), name), wanted)


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
