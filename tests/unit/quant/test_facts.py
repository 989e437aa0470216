"""Facts: parts of the whole and along each channel axis, joined and rescaled."""

import numpy as np
import pytest

from onnxq.calibration.observers import observe_array
from onnxq.quant.facts import Facts, Need, Stat, joined, meets

X = np.random.default_rng(0).normal(size=(7, 3, 5)).astype(np.float32)
PLAIN = frozenset(Stat) - {Stat.CHANNEL_RANGE, Stat.MEAN, Stat.ROWS, Stat.GRAM}


def test_joining_keeps_what_either_knows_along_every_axis() -> None:
    older = observe_array(X, {Stat.AVERAGE, Stat.MEAN, Stat.ROWS}, -2)
    newer = observe_array(X, {Stat.HISTOGRAM, Stat.GRAM}, -1).and_also(observe_array(2 * X, {Stat.MEAN}, -2))
    both = joined({"x": older, "y": older}, {"x": newer})
    assert both["y"] is older
    assert both["x"].has({Stat.AVERAGE, Stat.HISTOGRAM, Stat.MEAN, Stat.ROWS}, -2)
    assert both["x"].has({Stat.GRAM}, -1)
    assert both["x"].along(-2).mean is newer.along(-2).mean, "what was measured later counts"
    assert both["x"].along(-2).rows is older.along(-2).rows


def test_a_need_is_met_along_its_own_axis() -> None:
    facts = {"x": observe_array(X, Stat, -1), "empty": Facts(0, np.inf, -np.inf)}
    wanted = frozenset({Stat.MEAN})
    assert meets(facts, Need("x", wanted, -1))
    assert not meets(facts, Need("x", wanted, -2))
    assert meets(facts, Need("x", PLAIN, -2)), "these depend on no axis"
    assert meets(facts, Need("empty", wanted, -2)), "there was nothing to measure"
    assert not meets(facts, Need("y", PLAIN))


@pytest.mark.parametrize("axis", [0, 1])
def test_an_axis_is_counted_from_the_end(axis: int) -> None:
    with pytest.raises(ValueError, match=f"channel axis {axis} of 'x': count it from the end"):
        Need("x", PLAIN, axis)


def test_rescaling_along_one_axis_forgets_the_others() -> None:
    facts = observe_array(X, Stat, -1).and_also(observe_array(X, Stat, -2))
    scale, shift = np.array([1.0, 2.0, 4.0]), np.array([0.5, 0.0, -0.5])
    moved = facts.rescaled(scale, shift, -2)
    assert moved is not None
    assert moved.channels.keys() == {-2}
    wanted = observe_array((X - shift[:, np.newaxis]) / scale[:, np.newaxis], Stat, -2)
    # Halves and powers of two: numbers below 8 lose at most their last bit, 2^-22, at the subtraction.
    np.testing.assert_allclose([moved.low, moved.high], [wanted.low, wanted.high], rtol=0, atol=2.0**-21)
    for part in ("low", "high", "mean", "rows"):
        mine, theirs = getattr(moved.along(-2), part), getattr(wanted.along(-2), part)
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=2.0**-21)
    assert not moved.has({Stat.HISTOGRAM})
    assert not moved.has({Stat.GRAM}, -2)
    assert facts.rescaled(scale, shift, None) is None
