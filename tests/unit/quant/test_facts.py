"""Facts: statistics of the whole and along each channel axis, joined and rescaled."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxq.calibration.observers import observe_array
from onnxq.quant.facts import Facts, Need, facts_of, joined, meets
from onnxq.quant.statistics import (
    STATISTICS,
    Average,
    ChannelRange,
    Curvature,
    CurvedRows,
    Gram,
    Histogram,
    Mean,
    Range,
    Rows,
)
from onnxq.quant.statistics.base import Rescaling

X = np.random.default_rng(0).normal(size=(7, 3, 5)).astype(np.float32)
ALL = frozenset(kind for kind in STATISTICS.values() if kind.gradients == "none")
PLAIN = frozenset(kind for kind in ALL if not kind.by_channel)


def test_joining_keeps_what_either_knows_along_every_axis() -> None:
    older = observe_array(X, {Average, Mean, Rows}, -2)
    newer = observe_array(X, {Histogram, Gram}, -1).and_also(observe_array(2 * X, {Mean}, -2))
    both = joined({"x": older, "y": older}, {"x": newer})
    assert both["y"] is older
    assert both["x"].has({Average, Histogram, Mean, Rows}, -2)
    assert both["x"].has({Gram}, -1)
    assert both["x"].get(Mean, -2) is newer.get(Mean, -2), "what was measured later counts"
    assert both["x"].get(Rows, -2) is older.get(Rows, -2)


def test_a_need_is_met_along_its_own_axis() -> None:
    facts = {"x": observe_array(X, ALL, -1), "empty": facts_of(0, Range())}
    wanted = frozenset({Mean})
    assert meets(facts, Need("x", wanted, -1))
    assert not meets(facts, Need("x", wanted, -2))
    assert meets(facts, Need("x", PLAIN, -2)), "these depend on no axis"
    assert meets(facts, Need("empty", wanted, -2)), "there was nothing to measure"
    assert not meets(facts, Need("y", PLAIN))


@pytest.mark.parametrize("axis", [0, 1])
def test_an_axis_is_counted_from_the_end(axis: int) -> None:
    with pytest.raises(ValueError, match=f"channel axis {axis} of 'x': count it from the end"):
        Need("x", PLAIN, axis)


def test_facts_that_do_not_fit_together() -> None:
    two, three = (Mean(np.zeros(count, np.float32)) for count in (2, 3))
    with pytest.raises(ValueError, match="no facts look like this"):
        facts_of(1, two)
    with pytest.raises(ValueError, match="no facts look like this"):
        facts_of(1, Range(), two, axis=1)
    with pytest.raises(ValueError, match="parts of channels have different lengths"):
        facts_of(1, Range(), two, ChannelRange(three.values, three.values))


def moved(facts: Facts, x: NDArray[np.float32], scale: NDArray[Any], shift: NDArray[Any]) -> None:
    """Compare rescaled facts along axis -2 with those of the rescaled array."""
    got = facts.rescaled(scale, shift, -2)
    assert got is not None
    assert got.axes == [-2]
    assert [kind.name for kind in ALL if not got.has([kind], -2)] == ["average"]
    numbers = (x.astype(np.float64) - shift[:, np.newaxis]) / scale[:, np.newaxis]
    wanted = observe_array(numbers, ALL, -2)
    largest = float(np.abs(x).max() + np.abs(shift).max()) / float(scale.min())
    rows = facts.known(Rows, -2).values  # all of them, as there are few
    sampled = Histogram.of(Rescaling(scale, shift, -2).of(rows))
    np.testing.assert_array_equal(got.known(Histogram).counts, sampled.counts)
    for part in (got.known(Range), *got.along(-2)):
        for name, number in vars(part).items():
            expected = getattr(wanted.known(type(part), -2), name)
            # Each number is rounded to float32 a few times; a Gram matrix adds 35 products of two of them.
            terms = 35 * largest**2 if type(part) is Gram else largest
            np.testing.assert_allclose(number, expected, rtol=0, atol=8 * 2.0**-24 * terms)


def test_rescaling_along_one_axis_moves_what_follows_exactly_and_forgets_the_rest() -> None:
    facts = observe_array(X, ALL, -1).and_also(observe_array(X, ALL, -2))
    scale = np.array([0.3, 2.0, 7.0])
    moved(facts, X, scale, np.zeros(3))
    moved(facts, X, scale, np.array([0.5, 0.0, -0.5]))
    assert facts.rescaled(scale, np.zeros(3), None) is None


def test_gradients_grow_as_their_values_shrink() -> None:
    """With y = x / s, the derivative by y is that by x times s; squares of ones become those of s."""
    kinds = [ChannelRange, Curvature, CurvedRows]
    scale = np.array([0.5, 2.0, 4.0])
    got = observe_array(X, kinds, -2).rescaled(scale, np.zeros(3), -2)
    assert got is not None
    rows = got.known(CurvedRows, -2)
    np.testing.assert_array_equal(rows.squares, np.broadcast_to(scale**2, rows.squares.shape))
    np.testing.assert_array_equal(rows.values, X.transpose(0, 2, 1).reshape(-1, 3) / scale.astype(np.float32))
    places = X.shape[0] * X.shape[2]  # the array counts as one sample
    np.testing.assert_array_equal(got.known(Curvature, -2).values, places * scale**2)


def test_holding_channels_moves_what_follows_and_forgets_the_rest() -> None:
    facts = observe_array(X, ALL, -2)
    low, high = np.array([-np.inf, -0.5, -np.inf]), np.array([np.inf, 0.25, 0.0])
    got = facts.held(low, high, -2)
    assert got is not None
    wanted = observe_array(np.clip(X, low[:, np.newaxis], high[:, np.newaxis]), ALL, -2)
    assert {part.name for part in got.along(-2)} == {"channel-range", "mean", "rows"}
    assert (got.low, got.high) == (wanted.low, wanted.high)
    np.testing.assert_array_equal(got.known(Rows, -2).values, wanted.known(Rows, -2).values)
    # All rows were sampled, so that the mean is off by its roundings to float32 alone.
    np.testing.assert_allclose(
        got.known(Mean, -2).values, wanted.known(Mean, -2).values, atol=4 * 2.0**-24 * 4
    )


def test_powers_of_two_move_a_gram_matrix_bit_by_bit() -> None:
    facts, scale = observe_array(X, ALL, -2), np.array([0.5, 2.0, 4.0])
    got = facts.rescaled(scale, np.zeros(3), -2)
    again = observe_array(X / scale[:, np.newaxis], ALL, -2)
    assert got is not None
    np.testing.assert_array_equal(got.known(Gram, -2).values, again.known(Gram, -2).values)


def test_a_shift_that_leaves_little_of_a_channel_leaves_its_products_unknown() -> None:
    far = X + np.array([100.0, 0.0, 0.0], np.float32)[:, np.newaxis]
    got = observe_array(far, ALL, -2).rescaled(np.ones(3), np.array([100.0, 0.0, 0.0]), -2)
    assert got is not None
    assert got.get(Gram, -2) is None
    np.testing.assert_allclose(got.known(Mean, -2).values, X.mean(axis=(0, 2)), atol=1e-5)  # 2^-17 of 100


def test_without_channels_nothing_moves() -> None:
    assert observe_array(X, PLAIN, -2).rescaled(np.ones(3), np.zeros(3), -2) is None
    assert observe_array(X, {Mean, Gram}, -2).rescaled(np.ones(3), np.zeros(3), -2) is None


def test_thinned_facts_keep_few_rows_and_all_else() -> None:
    facts = observe_array(X, ALL, -1).thinned(12)
    np.testing.assert_array_equal(facts.known(Rows).values, X.reshape(-1, 5)[:2])
    assert facts.known(Gram).products.size == 25
