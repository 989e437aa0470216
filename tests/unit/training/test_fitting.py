"""The loop: what moves numbers, how fast, in which order, and what is kept."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxq.errors import DataError, InputError
from onnxq.training.checkpoint import resume, save
from onnxq.training.fitting import Check, Fitting, Plan
from onnxq.training.learned import Plain
from onnxq.training.momentum import Momentum
from onnxq.training.pool import Part, Pool
from onnxq.training.schedule import part_of_rate

AIM = np.float32([1, -2, 3])


def _parts(count: int = 6) -> list[Part]:
    rng = np.random.default_rng(0)
    return [Part({"noise": rng.normal(size=(4, 3)).astype(np.float32)}, 4) for _ in range(count)]


def _fitting(plan: Plan, start: Any = (0, 0, 0)) -> Fitting:
    """Bring an array to ``AIM``, with noise that the samples bring."""
    plain = Plain("w", np.float32(start))

    def model(feeds: Any) -> dict[str, Any]:
        off = plain.result - AIM
        return {"loss": np.square(off).sum(), "w_slope": 2 * off + feeds["noise"].mean(0) / 10}

    def check(step: int) -> Check:
        return Check(step, float(np.square(plain.result - AIM).sum()), None)

    return Fitting(plan, [plain], Pool(_parts(), plan.batch, plan.seed), model, check)


@pytest.mark.parametrize(("optimizer", "rate"), [("adam", 0.05), ("sgd", 0.01)])
def test_it_gets_there_and_keeps_the_best(optimizer: Any, rate: float) -> None:
    fitting = _fitting(Plan(steps=200, batch=4, rate=rate, optimizer=optimizer, check_every=20))
    checks = [check for check in fitting.run() if check is not None]
    assert [check.step for check in checks] == list(range(0, 201, 20))
    fitting.take_best()
    best = min(check.loss for check in checks)
    assert best < 0.02
    assert fitting.check(0).loss == best


def test_it_ends_where_nothing_gets_better() -> None:
    fitting = _fitting(Plan(steps=100, batch=4, rate=1.0, check_every=1, patience=3), start=AIM)
    list(fitting.run())
    assert fitting.step == 3


def test_momentum_is_a_running_sum() -> None:
    one = Momentum(np.zeros(1, np.float32))
    for slope in (1.0, 2.0):
        one.step(np.float32([slope]), 0.1)
    np.testing.assert_allclose(one.parameters, [-0.1 * 1 - 0.1 * (0.9 * 1 + 2)], rtol=1e-6)


def test_long_gradients_are_shortened_together() -> None:
    plain = [Plain(name, np.zeros(2, np.float32)) for name in "ab"]

    def model(feeds: Any) -> dict[str, Any]:
        return {"loss": np.zeros(()), "a_slope": np.float32([3, 0]), "b_slope": np.float32([0, 4])}

    plan = Plan(steps=1, batch=4, rate=1.0, optimizer="sgd", shape="constant", clip=1.0)
    fitting = Fitting(plan, plain, Pool(_parts(), 4), model, lambda step: Check(step, 0.0, None))
    list(fitting.run())
    found = np.concatenate([one.result for one in plain])
    np.testing.assert_allclose(found, [-0.6, 0, 0, -0.8], rtol=1e-6)


def test_weights_decay_and_scales_do_not() -> None:
    fitting = _fitting(Plan(steps=1, batch=4, rate=0.1, decay=0.5), start=(2, 2, 2))
    fitting.model = lambda feeds: {"loss": np.zeros(()), "w_slope": np.zeros(3, np.float32)}
    list(fitting.run())
    np.testing.assert_allclose(fitting.variables["w"], 2 * (1 - 0.1 * 0.5), rtol=1e-6)


def test_rates_rise_and_fall() -> None:
    found = [part_of_rate(step, 10, "cosine", 2) for step in range(10)]
    assert found[:3] == [0.5, 1.0, 1.0]
    assert all(one > next_ for one, next_ in pairwise(found[2:]))
    assert part_of_rate(9, 10, "constant", 0) == 1


def test_each_sample_is_drawn_once_in_an_epoch() -> None:
    pool = Pool(_parts(), 8, seed=1)
    drawn = [pool.drawn(step).arrays["noise"] for step in range(2 * pool.units)]
    whole = np.sort(np.concatenate([part.arrays["noise"] for part in _parts()]), axis=0)
    for epoch in (drawn[: pool.units], drawn[pool.units :]):
        np.testing.assert_array_equal(np.sort(np.concatenate(epoch), axis=0), whole)
    assert not np.array_equal(drawn[0], drawn[pool.units])
    np.testing.assert_array_equal(pool.drawn(1).arrays["noise"], drawn[1])


def test_batches_of_other_shapes_are_drawn_whole() -> None:
    parts = [Part({"x": np.zeros((2, length)), "one": np.zeros(())}, 2) for length in (3, 5, 7)]
    pool = Pool(parts, 32)
    assert sorted(pool.drawn(step).arrays["x"].shape[1] for step in range(3)) == [3, 5, 7]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_it_goes_on_as_if_it_had_never_stopped(optimizer: Any, tmp_path: Path) -> None:
    plan = Plan(steps=50, batch=4, rate=0.03, optimizer=optimizer, check_every=10)
    whole = _fitting(plan)
    list(whole.run())
    stopped = _fitting(plan)
    for check in stopped.run():
        if check is not None and check.step == 20:
            break
    save(stopped, tmp_path, "run")
    again = _fitting(plan)
    assert resume(again, tmp_path, "run")
    assert again.step == 20
    list(again.run())
    assert again.checks == whole.checks
    for name, array in whole.state().items():
        np.testing.assert_array_equal(again.state()[name], array)


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    fitting = _fitting(Plan())
    assert not resume(fitting, tmp_path, "run")
    save(fitting, tmp_path, "other")
    with pytest.raises(InputError, match="checkpoint of other training"):
        resume(fitting, tmp_path, "run")
    (tmp_path / "training.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match="it is damaged"):
        resume(fitting, tmp_path, "run")


def test_a_loss_that_is_no_number_ends_it() -> None:
    fitting = _fitting(Plan(steps=3, batch=4))
    fitting.model = lambda feeds: {"loss": np.float32(np.nan), "w_slope": np.zeros(3, np.float32)}
    with pytest.raises(DataError, match="the loss is nan at step 0") as caught:
        list(fitting.run())
    assert caught.value.hint == "give a smaller --lr, or --clip"
