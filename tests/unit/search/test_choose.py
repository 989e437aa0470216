"""What counts as the error of a form, and which error a value may not cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxq.engine.score import Errors, Remembered, Score
from onnxq.ir.store import load_model
from onnxq.recipe import Recipe
from onnxq.runtime.run import Run
from onnxq.search.choose import choose
from onnxq.testing.laws import FeedsBatch

PIPELINE = "encode-activations{dtype=uint8}"


def _model(folder: Path, body: str) -> Path:
    graph = onnx.parser.parse_graph(f"main (float[N,4] x) => (float[N,4] y) {{ {body} }}")
    path = folder / f"{len(list(folder.iterdir()))}.onnx"
    opset = onnx.helper.make_opsetid("", 21)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
    return path


@pytest.mark.parametrize(
    ("plain", "tried", "taken"), [("Neg(x)", "Sqrt(z)", False), ("Sqrt(z)", "Neg(x)", True)]
)
def test_a_form_that_gives_nan_is_the_worst(tmp_path: Path, plain: str, tried: str, taken: bool) -> None:
    """The square root of negative numbers is NaN: no number is left that could differ from the source's."""
    source = _model(tmp_path, "y = Identity(x)")
    forms = {
        text: _model(tmp_path, f"z = Neg(x) y = {body}" if "z" in body else f"y = {body}")
        for text, body in (("uint8", plain), ("int8", tried))
    }
    recipe = Recipe(name="mine", pipeline=PIPELINE, choices={"encode-activations": {"dtype": ("int8",)}})
    feeds = {"x": np.ones((2, 4), np.float32)}
    score = Score(source, lambda: [FeedsBatch(feeds)], Run(threads=1))
    choice = choose(
        recipe,
        lambda one: score.errors_of(forms["int8" if "dtype=int8" in one.pipeline else "uint8"]),
        lambda done, total: None,
    )
    assert [trial.taken for trial in choice.trials] == [True, taken]


@pytest.mark.parametrize(("bound", "taken"), [("3.7", True), ("3.0", False)])
def test_a_smaller_error_in_the_mean_is_not_bought_with_a_large_one(
    tmp_path: Path, bound: str, taken: bool
) -> None:
    """All values 0.2 off, beside one value of 4 that is cut off by 0.3, or by 1, five times as much."""
    source = _model(tmp_path, "y = Identity(x)")
    off = _model(tmp_path, "c = Constant<value_float = 0.2>() y = Add(x, c)")
    cut = _model(tmp_path, f"c = Constant<value_float = {bound}>() y = Min(x, c)")
    recipe = Recipe(name="mine", pipeline=PIPELINE, choices={"encode-activations": {"dtype": ("int8",)}})
    feeds = {"x": np.append(np.ones(39), 4).reshape(10, 4).astype(np.float32)}
    score = Score(source, lambda: [FeedsBatch(feeds)], Run(threads=1))
    choice = choose(
        recipe,
        lambda one: score.errors_of(cut if "dtype=int8" in one.pipeline else off),
        lambda done, total: None,
    )
    before, after = choice.trials
    assert after.noise < 0.95 * before.noise
    assert [after.largest / before.largest, after.taken] == [
        pytest.approx((4 - float(bound)) / 0.2, rel=1e-5),
        taken,
    ]


def test_values_ahead_of_one_that_is_taken_are_tried_again_on_top_of_it() -> None:
    """One by one, no recipe is built in vain; several at a time, nobody sees what was."""
    values = {"dtype": ("int8", "int16"), "method": ("mse", "percentile")}
    recipe = Recipe(name="mine", pipeline=PIPELINE, choices={"encode-activations": values})
    noise = {"int8": 0.5, "int16": 1.0, "mse": 0.5, "percentile": 1.0}
    tried: list[str] = []

    def errors_of(one: Recipe) -> Errors:
        tried.append(one.pipeline)
        return Errors(math.prod(part for name, part in noise.items() if f"={name}" in one.pipeline), 0.0)

    choice = choose(recipe, errors_of, lambda done, total: None)
    assert [trial.taken for trial in choice.trials] == [True, True, False, True, False]
    assert len(tried) == 5
    assert choice.recipe.pipeline == "encode-activations{method=mse, dtype=int8}"
    ahead = choose(recipe, errors_of, lambda done, total: None, Eager())
    assert ahead == choice
    assert len(tried) == 5 + 1 + 4 + 3 + 1  # all four; three on top of the first; one on top of the third


class Eager:
    """Does all that it is handed before the first result is asked for."""

    @contextmanager
    def opened(self, job: Callable[[Any], Any]) -> Iterator[Callable[[Iterable[Any]], Iterator[Any]]]:
        yield lambda items: iter([job(item) for item in items])


def test_the_source_is_let_go_of_once_all_its_results_are_known(tmp_path: Path) -> None:
    source = _model(tmp_path, "y = Identity(x)")
    off = _model(tmp_path, "c = Constant<value_float = 0.5>() y = Add(x, c)")
    batches = [FeedsBatch({"x": np.full((2, 4), size, np.float32)}) for size in (1, 2)]
    score = Score(source, lambda: batches, Run(threads=1))
    first = score.errors_of(off)
    source.unlink()
    assert isinstance(score._reference, Remembered)
    assert score._reference.inference is None
    assert score.errors_of(off) == first


def test_of_equal_builds_one_runs(tmp_path: Path) -> None:
    source = _model(tmp_path, "y = Identity(x)")
    bodies = [f"c = Constant<value_float = {off}>() y = Add(x, c)" for off in ("0.5", "0.5", "0.25")]
    asked: list[None] = []

    def batches() -> list[FeedsBatch]:
        asked.append(None)
        return [FeedsBatch({"x": np.ones((2, 4), np.float32)})]

    score = Score(source, batches, Run(threads=1))
    first, same, other = (score.errors(load_model(_model(tmp_path, body))) for body in bodies)
    assert first == same
    assert first.noise == pytest.approx(4 * other.noise, rel=1e-6)
    before = len(asked)
    assert score.errors(load_model(_model(tmp_path, bodies[2]))) == other
    assert len(asked) == before
