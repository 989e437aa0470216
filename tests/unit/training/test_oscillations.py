"""Weights whose best value lies between two integers: they flip, are seen to, and are cured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxq.quant.encodings import symmetric_encoding
from onnxq.training.checkpoint import resume, save
from onnxq.training.fitting import Check, Fitting, Plan
from onnxq.training.learned import Gridded
from onnxq.training.oscillations import OSCILLATES, Freezing, Oscillations, cures_of, risen
from onnxq.training.pool import Part, Pool

STEP = 0.5
AIM = np.float32([[0.0, 0.5, 1.0, -0.5], [0.72, 0.31, -0.8, 0.26]])
"""The first row lies on the grid, the second between its points."""


def _fitting(plan: Plan) -> Fitting:
    """Bring rounded weights to ``AIM``, as near as the grid lets them."""
    weight = Gridded("w", np.zeros_like(AIM) + np.float32(0.1), symmetric_encoding(3 * STEP, "int8", limit=3))

    def model(feeds: Any) -> dict[str, Any]:
        off = weight.result - AIM
        return {"loss": np.square(off).sum(), "w_slope": 2 * off}

    def check(step: int) -> Check:
        return Check(step, float(np.square(weight.result - AIM).sum()), None)

    pool = Pool([Part({"x": np.zeros((1, 1))}, 1)], 1)
    return Fitting(plan, [weight], pool, model, check, cures_of([weight], plan.dampen, plan.freeze))


def _plan(**more: Any) -> Plan:
    plain: dict[str, Any] = {"optimizer": "sgd", "shape": "constant", "check_every": 400}
    return Plan(steps=400, rate=0.05, scale_rate=0.0, **plain, **more)


def _last_flips(fitting: Fitting) -> np.ndarray[Any, Any]:
    """Train, and return which integers changed in the last fifty steps."""
    weight: Any = fitting.learned[0]
    seen = [weight.integers for _ in fitting.run()]
    return np.asarray(np.ptp(np.stack(seen[-50:]), axis=0) > 0)


def test_what_lies_between_grid_points_flips_and_is_seen() -> None:
    fitting = _fitting(_plan())
    flips = _last_flips(fitting)
    np.testing.assert_array_equal(flips, [[False] * 4, [True] * 4])
    (watched,) = fitting.cures
    assert isinstance(watched, Oscillations)
    np.testing.assert_array_equal(watched.frequency > OSCILLATES, flips)
    assert watched.share == 0.5


@pytest.mark.parametrize("more", [{"freeze": True}, {"dampen": 10.0}])
def test_cures_end_it(more: Any) -> None:
    fitting = _fitting(_plan(**more))
    assert not _last_flips(fitting).any()
    # Each ends at one of its two neighbours.
    assert (np.abs(fitting.learned[0].fed["w"] - AIM) < STEP).all()


def test_frozen_weights_keep_their_integer_wherever_the_scale_goes() -> None:
    fitting = _fitting(_plan(freeze=True))
    list(fitting.run())
    freezing = next(cure for cure in fitting.cures if isinstance(cure, Freezing))
    np.testing.assert_array_equal(freezing.frozen, [[False] * 4, [True] * 4])
    assert freezing.oscillations.share == 0
    weight: Any = fitting.learned[0]
    before = weight.integers
    weight.variables["w_ratio"][...] = 1.37
    freezing.after(1.0)
    np.testing.assert_array_equal(weight.integers[freezing.frozen], before[freezing.frozen])
    slopes = {"w": np.ones_like(AIM)}
    freezing.before(slopes, 1.0)
    np.testing.assert_array_equal(slopes["w"] == 0, freezing.frozen)


def test_cures_rise_behind_a_quarter() -> None:
    assert [risen(done) for done in (0.0, 0.25)] == [0, 0]
    assert risen(0.625) == pytest.approx(0.5)
    assert risen(1.0) == pytest.approx(1)


def test_only_few_bits_are_watched() -> None:
    wide = Gridded("w", AIM, symmetric_encoding(1.0, "int8"))
    assert cures_of([wide], 1.0, freeze=True) == []


def test_it_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    plan = _plan(freeze=True, dampen=0.1)
    whole, stopped, again = _fitting(plan), _fitting(plan), _fitting(plan)
    list(whole.run())
    for _ in stopped.run():
        if stopped.step == 250:
            break
    save(stopped, tmp_path, "run")
    assert resume(again, tmp_path, "run")
    list(again.run())
    for name, array in whole.state().items():
        np.testing.assert_array_equal(again.state()[name], array)
