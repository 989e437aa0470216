"""Choices of a recipe are decided by the error of the outputs, recorded, and repeat without deciding."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxq import CompileOptions, Dataset, compile_model, load_recipe, open_feeds
from onnxq.calibration.data import InputSpec, input_specs
from onnxq.engine.score import Errors, Score
from onnxq.errors import PipelineError
from onnxq.ir.digest import graph_digest
from onnxq.ir.store import load_model, save_model
from onnxq.ir.text import parse
from onnxq.recipe import Recipe, parse_recipe
from onnxq.report.tables import choices_table
from onnxq.runtime.run import Run
from onnxq.search.choose import choose

QUIET = CompileOptions(validate=False, bench=False, tune=False)
PIPELINE = "infer-shapes, encode-weights, encode-activations, insert-qdq, remove-dead"
SETTINGS = ("encode-activations.dtype=int8", "encode-activations.method=mse")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    graph = onnx.parser.parse_graph("main (float[N,64] x) => (float[N,8] y) { y = MatMul(x, w) }")
    weight = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    path = tmp_path / "model.onnx"
    opset = onnx.helper.make_opsetid("", 21)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
    return path


@pytest.fixture
def data(model: Path) -> Dataset:
    """Return normal numbers among which one is far out: a range that covers it wastes nearly all steps."""
    x = np.random.default_rng(1).normal(size=(64, 64)).astype(np.float32)
    x[0, 0] = 30.0
    return open_feeds("one far out", lambda: [{"x": x}], specs(model))


def specs(model: Path) -> tuple[InputSpec, ...]:
    return input_specs(load_model(model).model)


def recipe(**choices: Any) -> Recipe:
    return Recipe(name="mine", pipeline=PIPELINE, needs_data=True, choices=choices)


TWO = {"encode-activations": {"dtype": ("int8",), "method": ("mse",)}}


def test_a_value_is_taken_where_it_brings_the_error_down(model: Path, data: Dataset, tmp_path: Path) -> None:
    result = compile_model(model, tmp_path / "out.onnx", recipe=recipe(**TWO), data=data, options=QUIET)
    base, signed, clipped = result.manifest.choices or []
    # A signed grid has the same steps; clipping the one value far out makes them finer.
    assert [one.setting for one in (base, signed, clipped)] == ["mine", *SETTINGS]
    assert [one.taken for one in (base, signed, clipped)] == [True, False, True]
    assert clipped.noise < 0.9 * base.noise
    assert "method=mse" in result.manifest.recipe.pipeline
    assert not result.manifest.recipe.choices
    report = (tmp_path / "out.report.md").read_text()
    assert "## Choices" in report
    assert SETTINGS[1] in report


@pytest.mark.parametrize("name", ["cpu", "portable"])
def test_many_outliers_behind_a_gelu_are_scaled(name: str, tmp_path: Path) -> None:
    """A quarter of the channels are 20 times as large as the rest: too many to cut off and correct."""
    rng = np.random.default_rng(0)
    size = np.where(np.arange(64) % 4, 1.0, 20.0).astype(np.float32)
    weights = {
        "w": rng.normal(size=(32, 64)).astype(np.float32) * size,
        "v": rng.normal(size=(64, 8)).astype(np.float32) / size[:, np.newaxis],
    }
    body = "main (float[N,32] x) => (float[N,8] y) { a = MatMul(x, w) h = Gelu(a) y = MatMul(h, v) }"
    graph = onnx.parser.parse_graph(body)
    graph.initializer.extend(onnx.numpy_helper.from_array(one, key) for key, one in weights.items())
    path, opset = tmp_path / "gelu.onnx", onnx.helper.make_opsetid("", 20)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
    feeds = [{"x": rng.normal(size=(8, 32)).astype(np.float32)} for _ in range(8)]
    data = open_feeds("x", lambda: feeds, specs(path))
    result = compile_model(path, tmp_path / "out.onnx", recipe=load_recipe(name), data=data, options=QUIET)
    taken = {one.setting for one in result.manifest.choices or () if one.taken}
    assert "smooth=on" in taken
    assert "threshold" in (tmp_path / "out.report.md").read_text()


@pytest.mark.parametrize(
    ("keep_floor", "measured", "judging"),
    [(False, slice(0, None, 2), slice(1, None, 2)), (True, slice(0, 6), slice(6, None))],
)
def test_forms_are_judged_on_samples_that_nothing_was_measured_on(
    model: Path, tmp_path: Path, keep_floor: bool, measured: slice, judging: slice
) -> None:
    """They are those that are held back for the floor, or every second batch."""
    x = np.random.default_rng(1).normal(size=(64, 64)).astype(np.float32)
    batches = [{"x": x[start : start + 8]} for start in range(0, 64, 8)]
    whole, some, others = (
        open_feeds("x", lambda part=part: part, specs(model))
        for part in (batches, batches[measured], batches[judging])
    )
    options, alone = (replace(QUIET, keep_floor=keep) for keep in (keep_floor, False))
    result = compile_model(model, tmp_path / "out.onnx", recipe=recipe(**TWO), data=whole, options=options)
    plain = compile_model(model, tmp_path / "some.onnx", recipe=recipe(), data=some, options=alone)
    expected = Score(model, others.batches).errors_of(plain.output)
    assert (result.manifest.choices or ())[0].noise == pytest.approx(expected.noise, rel=1e-6)  # of float32
    assert result.manifest.data is not None
    assert result.manifest.data.samples == (48 if keep_floor else 64)


def test_the_manifest_repeats_the_build_without_choosing(model: Path, data: Dataset, tmp_path: Path) -> None:
    compile_model(model, tmp_path / "a.onnx", recipe=recipe(**TWO), data=data, options=QUIET)
    again = load_recipe(tmp_path / "a.manifest.json")
    result = compile_model(model, tmp_path / "b.onnx", recipe=again, data=data, options=QUIET)
    assert result.manifest.choices is None
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_what_the_caller_sets_is_no_choice(model: Path, data: Dataset, tmp_path: Path) -> None:
    settled = recipe(**TWO).with_options(["encode-activations.method=percentile"])
    assert settled.choices == {"encode-activations": {"dtype": ("int8",)}}
    assert recipe(**TWO).with_options([*SETTINGS]).choices == {}


def test_a_pass_that_is_off_is_the_pass_with_nothing_to_do(
    model: Path, data: Dataset, tmp_path: Path
) -> None:
    """Off is left as the empty list of values left it, and on is what all values were."""
    switch, listed = (
        Recipe(name="mine", pipeline=PIPELINE.replace("insert", f"{clipping}, insert"), choices=choices)
        for clipping, choices in (
            ("correct-clipping{off}", {"correct-clipping": ("on",)}),
            ("correct-clipping{sites=}", {"correct-clipping": {"sites": ("*",)}}),
        )
    )
    taken = [switch.with_options(["correct-clipping=on"]), listed.with_options(["correct-clipping.sites=*"])]
    found = [
        compile_model(model, tmp_path / f"{n}.onnx", recipe=recipe, data=data, options=QUIET)
        for n, recipe in enumerate((switch, listed, switch.decided(), listed.decided(), *taken))
    ]
    trials = [result.manifest.choices or () for result in found[:2]]
    assert [one.setting for one in trials[0]] == ["mine", "correct-clipping=on"]
    assert [one.setting for one in trials[1]] == ["mine", "correct-clipping.sites=*"]
    assert [replace(one, setting="") for one in trials[0]] == [replace(one, setting="") for one in trials[1]]
    graphs = [graph_digest(load_model(result.output)) for result in found]
    assert graphs[0] == graphs[1]
    assert graphs[2] == graphs[3] != graphs[4] == graphs[5]
    record = next(one for one in found[2].manifest.passes if one.text == "correct-clipping{off}")
    assert (record.edits, record.skipped) == ((), ())


def test_nothing_is_tried_when_not_asked_for(model: Path, data: Dataset, tmp_path: Path) -> None:
    options = CompileOptions(validate=False, bench=False, choose=False, tune=False)
    result = compile_model(model, tmp_path / "out.onnx", recipe=recipe(**TWO), data=data, options=options)
    assert result.manifest.choices is None
    assert result.manifest.recipe == recipe().settled()


def test_a_choice_of_an_unknown_option_says_so(model: Path, data: Dataset, tmp_path: Path) -> None:
    wrong = recipe(**{"encode-activations": {"methode": ("mse",)}})
    with pytest.raises(PipelineError, match="pass 'encode-activations' has no option 'methode'"):
        compile_model(model, tmp_path / "out.onnx", recipe=wrong, data=data, options=QUIET)


def test_choices_are_written_and_read_as_toml() -> None:
    text = recipe(**TWO).to_toml()
    assert 'encode-activations.method = ["mse"]' in text
    again = parse_recipe(text, where="here")
    assert again.choices == recipe(**TWO).choices
    assert again.to_toml() == text


NORM = """<ir_version: 10, opset_import: ["" : 21]>
main (float[N,5,8] x) => (float[N,5,8] y)
<float[8] gamma = {30, 1, 1, 1, 1, 1, 1, 1}, float[8] beta = {9, 0, 0, 0, 0, 0, 0, 0},
 float[8,8] w = {WEIGHT}, float[8] b = {1, 2, 3, 4, 5, 6, 7, 8}>
{
    [norm] n = LayerNormalization(x, gamma, beta)
    [product] p = MatMul(n, w)
    [sum] y = Add(p, b)
}
"""


def test_forms_that_begin_alike_are_measured_once(tmp_path: Path) -> None:
    """Rows for folding, and the means and ranges that the folded values get from what the source tells."""
    rng = np.random.default_rng(2)
    weight = ", ".join(f"{number:.4f}" for number in rng.normal(size=64))
    save_model(parse(NORM.replace("WEIGHT", weight)), source := tmp_path / "norm.onnx")
    x = rng.normal(size=(16, 5, 8)).astype(np.float32)
    data = open_feeds("x", lambda: [{"x": x}], specs(source))
    pipeline = PIPELINE.replace("encode-weights,", "shift-and-scale, encode-weights, correct-bias,")
    mine = recipe(**TWO).model_copy(update={"pipeline": pipeline})
    measured = []

    def on_progress(stage: str, done: int, total: int | None) -> None:
        if stage == "calibrating" and done == len(x):
            measured.append(done)

    output, again = tmp_path / "out.onnx", tmp_path / "again.onnx"
    result = compile_model(source, output, recipe=mine, data=data, options=QUIET, on_progress=on_progress)
    assert len(result.manifest.choices or ()) == 3
    assert any("folded" in edit.subject for record in result.records for edit in record.edits)
    assert measured == [16]  # with what method=mse wants of the source
    compile_model(source, again, recipe=result.manifest.recipe, data=data, options=QUIET)
    assert output.read_bytes() == again.read_bytes()


NUMBERS = """<ir_version: 10, opset_import: ["" : 21]>
main (float[N,4] x) => (float[N,4] y, float[N,4] z)
<float f = {FACTOR}>
{
    [fed] a = Mul(x, f)
    [broken] y = OPERATOR(a, a)
    [roots] z = Sqrt(x)
}
"""


@pytest.fixture
def forms(tmp_path: Path) -> dict[str, Path]:
    """Return models whose second output is NaN for negative inputs, and whose first is what is told apart."""
    texts = {
        "source": ("1.0", "Max"),
        "close": ("1.001", "Max"),
        "far": ("1.1", "Max"),
        "broken": ("0.0", "Div"),
    }
    for name, (factor, operator) in texts.items():
        text = NUMBERS.replace("FACTOR", factor).replace("OPERATOR", operator)
        save_model(parse(text), tmp_path / f"{name}.onnx")
    return {name: tmp_path / f"{name}.onnx" for name in texts}


@pytest.mark.parametrize(
    ("plain", "signed", "clipped", "taken"),
    [
        ("far", "broken", "close", [True, False, True]),
        ("broken", "close", "broken", [True, True, False]),
        ("broken", "broken", "far", [True, False, True]),
    ],
)
def test_no_numbers_are_never_taken_and_block_no_others(
    forms: dict[str, Path], plain: str, signed: str, clipped: str, taken: list[bool]
) -> None:
    x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    data = open_feeds("x", lambda: [{"x": x}], specs(forms["source"]))

    score = Score(forms["source"], data.batches, Run(threads=1))

    def errors_of(tried: Recipe) -> Errors:
        """Return those of the form that stands for what ``tried`` sets."""
        last = clipped if "mse" in tried.pipeline else signed if "dtype=int8" in tried.pipeline else plain
        return score.errors_of(forms[last])

    found = choose(recipe(**TWO), errors_of, lambda done, total: None)
    assert [trial.taken for trial in found.trials] == taken
    kinds = [plain, signed, clipped]
    assert [math.isinf(trial.noise) for trial in found.trials] == [kind == "broken" for kind in kinds]
    shown = choices_table(found.trials)
    assert [row[1] == "not finite" for row in shown.rows] == [kind == "broken" for kind in kinds]
