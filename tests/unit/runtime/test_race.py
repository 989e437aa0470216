"""Who is faster is told from who is not, in the time that there is."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxq.runtime import race as timed
from onnxq.runtime.bench import Spread
from onnxq.runtime.race import (
    FIRST_ROUNDS,
    MOST_ROUNDS,
    WON_ROUNDS,
    Standing,
    block_of,
    is_decided,
    race,
)
from onnxq.runtime.run import Run
from onnxq.runtime.session import Session, open_session


def _model(path: Path, products: int) -> Path:
    names = ["x", *(f"h{number}" for number in range(products - 1)), "y"]
    body = " ".join(f"{after} = MatMul({before}, w)" for before, after in pairwise(names))
    graph = onnx.parser.parse_graph(f"main (float[96,96] x) => (float[96,96] y) {{ {body} }}")
    graph.initializer.append(onnx.numpy_helper.from_array(np.eye(96, dtype=np.float32), "w"))
    opset = onnx.helper.make_opsetid("", 21)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
    return path


def test_ten_times_the_work_is_slower_and_leaves_early(tmp_path: Path) -> None:
    """Ten products against one: a factor that no load of the machine turns round in five rounds."""
    models = {"one": _model(tmp_path / "one.onnx", 1), "ten": _model(tmp_path / "ten.onnx", 10)}
    rounds: list[int] = []
    found = race(
        models,
        [{"x": np.eye(96, dtype=np.float32)}],
        Run(threads=1),
        on_progress=lambda done, total: rounds.append(done),
    )
    assert found["ten"].gain.median < 0.5
    assert not found["ten"].faster
    assert rounds[-1] == FIRST_ROUNDS


def test_a_session_that_is_faster_than_its_like_wins_no_race(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first session of one model is slower by 3 %, as it lies in memory; all others are alike."""
    opened: list[str] = []

    def entrant(model: Path, feeds: object, run: object) -> float:
        opened.append(model.name)
        return 1.03 if len(opened) == 1 else 1.0

    monkeypatch.setattr(timed, "model_size", lambda model: 1)
    monkeypatch.setattr(timed, "opened", entrant)
    monkeypatch.setattr(timed, "warmed_ms", lambda session, feeds, warmup: 10.0)
    monkeypatch.setattr(timed, "block_ms", lambda session, feeds, runs: session)
    found = race({"one": Path("one"), "same": Path("same")}, [{}])
    assert opened == ["one", "same"] * 2 or opened == ["one", "same", "same", "one"]
    assert not found["same"].faster


@pytest.mark.parametrize(
    ("gain", "faster", "doubtful"),
    [
        (Spread(1.2, 1.1, 1.3), True, False),
        (Spread(1.2, 0.9, 1.6), False, True),  # it looks faster, and one round in ten says the contrary
        (Spread(1.005, 1.001, 1.01), False, False),
        (Spread(0.8, 0.7, 1.2), False, False),
    ],
)
def test_the_noise_decides_what_is_clear(gain: Spread, faster: bool, doubtful: bool) -> None:
    standing = Standing(gain)
    assert (standing.faster, standing.doubtful) == (faster, doubtful)


@pytest.mark.parametrize(
    ("one_ms", "runs"),
    [(1e-3, 200), (0.5, 30), (4.9, 3), (7, 3), (12, 2), (25, 1), (400, 1)],
)
def test_a_block_is_short_but_holds_three_runs_where_they_fit(one_ms: float, runs: int) -> None:
    assert block_of(one_ms) == runs


@pytest.mark.parametrize(
    ("gains", "decided"),
    [
        ([0.9] * (FIRST_ROUNDS - 1), False),  # one slow moment of the machine is no reason
        ([0.9] * FIRST_ROUNDS, True),
        ([1.2] * (WON_ROUNDS - 1), False),
        ([1.2] * WON_ROUNDS, True),
        ([1.2] * (WON_ROUNDS - 1) + [0.99], False),  # it lost one
        ([1.2] * 6 + [1.005] * 4, False),  # four of ten are within the noise of equals
        ([1.2] * 9 + [0.9], False),  # it may win nine of ten
        ([1.2] * 3 + [0.9] * 2, True),
        ([1.2] * 9 + [0.9] * 2, False),  # of eleven on, it may lose two of twenty
        ([1.2] * 9 + [0.9] * 3, True),
    ],
)
def test_who_is_told_from_the_first_leaves(gains: list[float], decided: bool) -> None:
    assert is_decided(gains) == decided


def test_of_equals_few_are_taken_for_faster() -> None:
    """With noise of 3 %, one of a thousand wins ten of ten; of 2000, more than 8 in 2 of 10,000 cases."""
    rng = np.random.default_rng(0)
    assert sum(_standing(np.exp(rng.normal(0, 0.03, MOST_ROUNDS))).faster for _ in range(2000)) <= 8
    gains = (np.exp(rng.normal(np.log(1.15), 0.03, MOST_ROUNDS)) for _ in range(100))
    assert all(_standing(one).faster for one in gains)


def _standing(gains: np.ndarray) -> Standing:
    """Return what a race makes of these rounds."""
    ends = (count for count in range(1, MOST_ROUNDS) if is_decided(gains[:count].tolist()))
    return Standing(Spread.of(gains[: next(ends, MOST_ROUNDS)].tolist()))


def test_the_largest_model_is_opened_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it takes to open goes before the others come; who is compared with whom does not depend on it."""
    models = {"one": _model(tmp_path / "one.onnx", 1), "ten": _model(tmp_path / "ten.onnx", 10)}
    opened: list[Path] = []

    def noted(model: Path, run: Run) -> Session:
        opened.append(model)
        return open_session(model, run)

    monkeypatch.setattr(f"{race.__module__}.open_session", noted)
    found = race(models, [{"x": np.eye(96, dtype=np.float32)}], Run(threads=1))
    assert opened == [models["ten"], models["one"]]
    assert list(found) == ["ten"]
