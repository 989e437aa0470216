"""Tuning: the decisions are recorded, remembered, and repeat without measuring."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxq import CompileOptions, Dataset, compile_model, load_model, load_recipe, open_feeds
from onnxq.calibration.data import input_specs
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.recipe import Recipe
from onnxq.runtime.bench import Spread
from onnxq.runtime.gates import FLOOR_DB
from onnxq.runtime.race import Standing
from onnxq.search.forms import Form
from onnxq.search.remembered import cache_file
from onnxq.search.tune import EVERYTHING, EXACT, SOURCE, Verdict

ROWS, WIDTH = 32, 64
UNCHOSEN = CompileOptions(choose=False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return two linear layers of different shapes."""
    rng = np.random.default_rng(0)
    graph = onnx.parser.parse_graph(
        f"main (float[N,{ROWS},{WIDTH}] x) => (float[N,{ROWS},8] y) "
        "{ [wide] h = MatMul(x, a) r = Relu(h) [narrow] y = MatMul(r, b) }"
    )
    for name, shape in (("a", (WIDTH, WIDTH)), ("b", (WIDTH, 8))):
        graph.initializer.append(
            onnx.numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
        )
    path = tmp_path / "model.onnx"
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10), path
    )
    return path


@pytest.fixture
def data(model: Path) -> Dataset:
    x = np.random.default_rng(1).normal(size=(8, ROWS, WIDTH)).astype(np.float32)
    return open_feeds("noise", lambda: [{"x": x}], input_specs(load_model(model).model))


def test_every_layer_shape_and_every_optional_pass_gets_a_verdict(
    model: Path, data: Dataset, tmp_path: Path
) -> None:
    result = compile_model(model, tmp_path / "out.onnx", recipe=load_recipe("cpu"), data=data)
    names = {verdict.name for verdict in result.manifest.tuning or ()}
    assert {"int8 for MatMul 64x64", "int8 for MatMul 64x8", "pass sum-residuals"} <= names


def test_the_verdicts_are_remembered(model: Path, data: Dataset, tmp_path: Path) -> None:
    first = compile_model(model, tmp_path / "a.onnx", recipe=load_recipe("cpu"), data=data)
    assert cache_file().is_file()
    second = compile_model(model, tmp_path / "b.onnx", recipe=load_recipe("cpu"), data=data)
    assert all(verdict.gain is None for verdict in second.manifest.tuning or ())
    dropped = [[v.name for v in result.manifest.tuning or () if v.dropped] for result in (first, second)]
    assert dropped[0] == dropped[1]


def test_the_verdicts_of_one_recipe_say_nothing_of_another(
    model: Path, data: Dataset, tmp_path: Path
) -> None:
    """Int8 with ranges and int8 without are other kernels for the same layer."""
    compile_model(model, tmp_path / "a.onnx", recipe=load_recipe("cpu"), data=data)
    result = compile_model(model, tmp_path / "b.onnx", recipe=load_recipe("cpu-dynamic"), data=data)
    assert all(verdict.gain is not None for verdict in result.manifest.tuning or ())


def test_a_dropped_form_is_left_out_by_name(
    model: Path, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plant a verdict and an honest clock's choice, so that the outcome does not depend on timing."""
    monkeypatch.setattr("onnxq.search.tune._confirmed", lambda recipe, groups, verdicts, timing: verdicts)
    monkeypatch.setattr("onnxq.search.tune._never_slower", _keep_tuned)
    monkeypatch.setattr("onnxq.search.tune._tried", _drop("int8 for MatMul 64x8"))
    result = compile_model(model, tmp_path / "out.onnx", recipe=load_recipe("cpu"), data=data)
    weights = {tensor.name: tensor.data_type for tensor in onnx.load(result.output).graph.initializer}
    chosen = ("", "_rounded", "_folded", "_folded_rounded")  # by what the recipe's choices took
    assert {weights.get(f"a{name}_q") for name in chosen} - {None} == {onnx.TensorProto.INT8}
    assert {weights.get(f"b{name}") for name in chosen} - {None} == {onnx.TensorProto.FLOAT}
    encode = next(p for p in parse_pipeline(result.manifest.recipe.pipeline) if p.name == "encode-weights")
    assert encode == parse_pipeline("encode-weights{exclude=narrow, patches=false}")[0]


@pytest.mark.parametrize(("faster", "kept"), [(1.0, ()), (1.1, ("int8 for MatMul 64x8",))])
def test_what_a_few_rounds_said_has_to_be_confirmed(
    faster: float,
    kept: tuple[str, ...],
    model: Path,
    data: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Plant a verdict, and times in which leaving the layer out does or does not pay."""
    monkeypatch.setattr("onnxq.search.tune._tried", _drop("int8 for MatMul 64x8"))
    _plant_gains(monkeypatch, {"tuned": faster, SOURCE: 0.5, EXACT: 0.6, EVERYTHING: 0.7})
    recipe = load_recipe("cpu")
    result = compile_model(model, tmp_path / "out.onnx", recipe=recipe, data=data, options=UNCHOSEN)
    verdicts = result.manifest.tuning or ()
    assert tuple(verdict.name for verdict in verdicts if verdict.dropped) == kept


def test_what_is_faster_and_misses_the_floor_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A logarithm behind frames of a signal that is loud at its end: without their bits, quiet ones are 0.

    Plant a verdict by which the model is faster without the pass that gives them those.
    """
    graph = onnx.parser.parse_graph(
        "main (float[N,1,3200] x) => (float[N,8,99] y) "
        "<float e = {1e-4}> { [frames] h = Conv<strides = [32]>(x, w) a = Abs(h) p = Add(a, e) y = Log(p) }"
    )
    rng = np.random.default_rng(0)
    graph.initializer.append(
        onnx.numpy_helper.from_array(rng.normal(size=(8, 1, 64)).astype(np.float32), "w")
    )
    opset = [onnx.helper.make_opsetid("", 21)]
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), path := tmp_path / "sound.onnx"
    )
    x = (rng.normal(size=(64, 1, 3200)) * np.geomspace(1e-4, 1, 3200)).astype(np.float32)
    data = open_feeds("sound", lambda: [{"x": x}], input_specs(load_model(path).model))
    monkeypatch.setattr("onnxq.search.tune._tried", _drop("pass normalize-frames"))
    _plant_gains(monkeypatch, {"tuned": 1.1, SOURCE: 0.5, EXACT: 0.6, EVERYTHING: 0.7})
    result = compile_model(
        path, tmp_path / "out.onnx", recipe=load_recipe("cpu"), data=data, options=UNCHOSEN
    )
    (verdict,) = [one for one in result.manifest.tuning or () if one.name == "pass normalize-frames"]
    assert (verdict.dropped, verdict.needed) == (False, True)
    assert result.accuracy is not None
    assert (result.accuracy.outputs[0].sqnr_db or 0) > FLOOR_DB
    assert any(node.op_type == "MatMulIntegerToFloat" for node in onnx.load(result.output).graph.node)


@pytest.mark.parametrize(
    ("everything", "source", "hinted"),
    [
        (0.9, 0.5, False),
        (1.2, 0.5, True),
        (1.2, 1.3, False),  # the source is kept, and is faster than that
        (1.4, 1.3, True),
    ],
)
def test_a_faster_form_with_every_value_quantized_is_told_of_and_not_kept(
    everything: float,
    source: float,
    hinted: bool,
    model: Path,
    data: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("onnxq.search.tune._tried", lambda *args: ([], {}))
    _plant_gains(monkeypatch, {SOURCE: source, EXACT: 0.6, EVERYTHING: everything})
    recipe = load_recipe("cpu")
    result = compile_model(model, tmp_path / "out.onnx", recipe=recipe, data=data, options=UNCHOSEN)
    hints = [text for text in result.manifest.warnings if f"--recipe {EVERYTHING}" in text]
    assert [f"{everything:.2f}x" in hint for hint in hints] == [True] * hinted
    assert ("matmul" in result.manifest.recipe.pipeline) == (source < 1)


@pytest.mark.parametrize(
    ("gains", "races", "weight"),
    [
        ({SOURCE: 0.5, EXACT: 0.6}, 1, "a_q"),
        ({SOURCE: 1.1, EXACT: 1.2}, 1, "a"),
        ({"int8 for MatMul 64x64": 1.1, "tuned": 1.1}, 3, "a"),
    ],
)
def test_rivals_race_once_more_only_where_something_is_left_out(
    gains: dict[str, float],
    races: int,
    weight: str,
    model: Path,
    data: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Plant times in which all is kept, the exact passes win, or one layer is in float and all race anew."""
    raced = _plant_gains(monkeypatch, gains)
    monkeypatch.setattr("onnxq.search.tune._profiled", lambda *args: ({}, []))
    recipe = load_recipe("cpu")
    result = compile_model(model, tmp_path / "out.onnx", recipe=recipe, data=data, options=UNCHOSEN)
    assert len(raced) == races
    assert {SOURCE, EXACT, EVERYTHING} <= raced[0] & raced[-1]
    assert weight in {tensor.name for tensor in onnx.load(result.output).graph.initializer}


def test_the_manifest_repeats_a_tuned_build_without_timing(
    model: Path, data: Dataset, tmp_path: Path
) -> None:
    result = compile_model(model, tmp_path / "out.onnx", recipe=load_recipe("cpu"), data=data)
    again = compile_model(
        model,
        tmp_path / "again.onnx",
        recipe=load_recipe(tmp_path / "out.manifest.json"),
        data=data,
        options=CompileOptions(tune=False, bench=False),
    )
    assert again.output.read_bytes() == result.output.read_bytes()


def test_a_broken_cache_is_measured_again(model: Path, data: Dataset, tmp_path: Path) -> None:
    cache_file().parent.mkdir(parents=True)
    cache_file().write_text("{ not json")
    compile_model(model, tmp_path / "out.onnx", recipe=load_recipe("cpu"), data=data)
    assert json.loads(cache_file().read_text())


@pytest.mark.parametrize("recipe", ["cpu-dynamic", "fp32"])
def test_recipes_without_data_or_integers_are_tuned_too(
    recipe: str, model: Path, data: Dataset, tmp_path: Path
) -> None:
    result = compile_model(model, tmp_path / "out.onnx", recipe=load_recipe(recipe), data=data)
    assert result.manifest.tuning is not None


def _plant_gains(monkeypatch: pytest.MonkeyPatch, gains: dict[str, float]) -> list[set[str]]:
    """Let every race end as planted, without noise; return who raced, when it is over."""
    raced: list[set[str]] = []

    def planted(models: dict[str, Path], *args: object, **options: object) -> dict[str, Standing]:
        raced.append(set(models))
        return {name: Standing(Spread(*3 * [gains.get(name, 0.9)])) for name in list(models)[1:]}

    monkeypatch.setattr("onnxq.search.tune.race", planted)
    return raced


def _keep_tuned(tuned: Recipe, verdicts: list[Verdict], *_: object) -> object:
    from onnxq.search.tune import Tuning

    return Tuning(tuned, tuple(verdicts))


def _drop(name: str) -> Callable[..., tuple[list[Verdict], dict[str, Standing]]]:
    """Return what finds the model faster without this form alone."""

    def tried(
        recipe: Recipe, forms: list[Form], groups: object, timing: object
    ) -> tuple[list[Verdict], dict[str, Standing]]:
        return [Verdict(form.name, 1.5, (1.2, 1.7), dropped=form.name == name) for form in forms], {}

    return tried
