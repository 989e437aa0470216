"""The floor of quality: what ruins an output goes to float, and no more than that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxq import CompileOptions, Dataset, compile_model, load_model, load_recipe, open_feeds
from onnxq.calibration.data import input_specs
from onnxq.compilation import CompileResult
from onnxq.manifest import manifest_path, read_manifest
from onnxq.runtime.gates import FLOOR_DB, Gates, floor_db
from onnxq.runtime.metrics import MeanOf, Metric

WIDTH, SAMPLES = 32, 64
QUIET = CompileOptions(bench=False, tune=False, choose=False)
TEXT = """<ir_version: 10, opset_import: ["" : 21]>
ruined (float[N,{w}] x) => (float[N,8] y) {{
    [spread] s = MatMul(x, a)
    [first] h = MatMul(s, b) r = Relu(h)
    [second] i = MatMul(r, c) q = Relu(i)
    [last] y = MatMul(q, d)
}}"""


def save(text: str, weights: dict[str, np.ndarray], path: Path) -> Path:
    model = onnx.parser.parse_model(text)
    for name, weight in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight.astype(np.float32), name))
    onnx.save(model, path)
    return path


@pytest.fixture
def ruined(tmp_path: Path) -> Path:
    """Return four layers; the second gives a channel no weight that is a thousand times larger."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(WIDTH, WIDTH)), rng.normal(size=(WIDTH, WIDTH))
    a[:, 0] *= 1000
    b[0] = 0
    weights = {"a": a, "b": b, "c": rng.normal(size=(WIDTH, WIDTH)), "d": rng.normal(size=(WIDTH, 8))}
    return save(TEXT.format(w=WIDTH), weights, tmp_path / "ruined.onnx")


def data_for(model: Path, samples: int = SAMPLES) -> Dataset:
    x = np.random.default_rng(1).normal(size=(samples, WIDTH)).astype(np.float32)
    feeds = [{"x": x[start : start + 16]} for start in range(0, samples, 16)]
    return open_feeds("noise", lambda: feeds, input_specs(load_model(model).model))


def compiled(
    model: Path, name: str = "out", options: CompileOptions = QUIET, samples: int = SAMPLES
) -> CompileResult:
    output = model.with_name(f"{name}.onnx")
    data = data_for(model, samples)
    return compile_model(model, output, recipe=load_recipe("cpu"), data=data, options=options)


def sqnr_db(result: CompileResult) -> float:
    assert result.accuracy is not None
    return float(result.accuracy.outputs[0].sqnr_db or 0)


def floats(result: CompileResult) -> set[str]:
    """Return the layers that are in float by name."""
    return set(result.manifest.recipe.precision.layers)


def test_the_layer_that_ruins_the_output_alone_is_in_float(ruined: Path) -> None:
    result = compiled(ruined)
    assert floats(result) == {"first"}
    assert sqnr_db(result) >= FLOOR_DB
    frontier = result.manifest.frontier or ()
    assert [point.in_float for point in frontier] == [0, 1, 4]
    assert [point.kept for point in frontier] == [False, True, False]
    assert frontier[0].sqnr_db < FLOOR_DB < frontier[1].sqnr_db
    assert frontier[0].size_bytes < frontier[1].size_bytes < frontier[2].size_bytes
    assert any("kept 1 of 4 layers in float" in warning for warning in result.manifest.warnings)


def test_what_is_judged_was_not_measured_on(ruined: Path) -> None:
    result = compiled(ruined)
    assert result.manifest.data is not None
    assert result.accuracy is not None
    assert (result.manifest.data.samples, result.accuracy.samples) == (48, 16)


def test_few_samples_are_all_measured_on_and_that_is_told(ruined: Path) -> None:
    result = compiled(ruined, samples=16)
    assert floats(result) == {"first"}
    assert any(
        "compared on the samples that ranges were measured on" in one for one in result.manifest.warnings
    )


def test_the_whole_is_kept_where_that_is_asked_for(ruined: Path) -> None:
    result = compiled(ruined, options=replace(QUIET, gates=Gates(min_sqnr_db=0)))
    assert not floats(result)
    assert result.manifest.frontier is None
    assert sqnr_db(result) < FLOOR_DB


def test_the_option_of_the_first_point_gives_it(ruined: Path) -> None:
    frontier = compiled(ruined).manifest.frontier or ()
    asked = float(frontier[0].option.removeprefix("--min-sqnr ").replace("off", "0"))
    assert not floats(compiled(ruined, "again", replace(QUIET, gates=Gates(min_sqnr_db=asked))))


def test_more_is_in_float_where_more_is_asked_for(ruined: Path) -> None:
    wanted = sqnr_db(compiled(ruined)) + 3
    result = compiled(ruined, "better", replace(QUIET, gates=Gates(min_sqnr_db=wanted)))
    assert {"first"} < floats(result) < {"spread", "first", "second", "last"}
    assert sqnr_db(result) >= wanted


def test_what_no_part_reaches_is_reached_in_float_and_told(ruined: Path) -> None:
    result = compiled(ruined, options=replace(QUIET, gates=Gates(min_sqnr_db=100)))
    assert any("kept all layers in float" in warning for warning in result.manifest.warnings)
    assert {node.op_type for node in onnx.load(result.output).graph.node} == {"MatMul", "Relu"}
    assert (result.manifest.frontier or ())[-1].kept


@pytest.mark.parametrize("recipe", ["cpu-dynamic", "cpu-split"])
def test_it_holds_for_each_recipe_of_the_cpu(ruined: Path, recipe: str) -> None:
    """One has no ranges, and the other puts several nodes in the place of a layer."""
    output = ruined.with_name("out.onnx")
    result = compile_model(ruined, output, recipe=load_recipe(recipe), data=data_for(ruined), options=QUIET)
    assert sqnr_db(result) >= FLOOR_DB
    assert any("layers in float" in warning for warning in result.manifest.warnings)


@pytest.mark.parametrize("mode", ["fused", "branches"])
def test_split_layers_go_to_float_one_by_one(ruined: Path, mode: str) -> None:
    """What stands in the place of a layer is called as the layer."""
    recipe = load_recipe("cpu-split").with_options([f"split-linear.mode={mode}"])
    output = ruined.with_name("out.onnx")
    result = compile_model(ruined, output, recipe=recipe, data=data_for(ruined), options=QUIET)
    assert floats(result) == {"first"}
    assert sqnr_db(result) >= FLOOR_DB


def test_a_drop_of_the_metric_is_held(ruined: Path) -> None:
    """The metric is one minus the error of each sample, as a part of its signal."""
    source = load_reference(ruined)

    def closeness(outputs: dict[str, Any], batch: Any) -> Any:
        wanted = source(batch.feeds["x"])
        return 1 - np.linalg.norm(outputs["y"] - wanted, axis=1) / np.linalg.norm(wanted, axis=1)

    metric = Metric("closeness", lambda: MeanOf(closeness))
    free = compiled(ruined, "free", replace(QUIET, gates=Gates(min_sqnr_db=0), metric=metric))
    assert free.accuracy is not None
    assert free.accuracy.metric is not None
    assert free.accuracy.metric.drop > 20
    held = compiled(ruined, "held", replace(QUIET, gates=Gates(max_drop=10), metric=metric))
    assert held.accuracy is not None
    assert held.accuracy.metric is not None
    assert held.accuracy.metric.drop <= 10
    assert "first" in floats(held)


def load_reference(model: Path) -> Any:
    from onnxq.runtime.session import open_session

    session = open_session(model)
    return lambda x: session.run({"x": x})["y"]


@pytest.mark.parametrize("processes", [1, 2])
def test_the_manifest_repeats_it_and_processes_change_nothing(
    ruined: Path, processes: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one = compiled(ruined, "one")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache{processes}"))
    other = compiled(ruined, "other", replace(QUIET, processes=processes))
    assert one.output.read_bytes() == other.output.read_bytes()
    assert one.manifest.frontier == other.manifest.frontier
    again = compile_model(
        *(ruined, ruined.with_name("again.onnx")),
        recipe=load_recipe(manifest_path(other.output)),
        data=data_for(ruined),
        options=replace(QUIET, keep_floor=False),
    )
    assert again.output.read_bytes() == one.output.read_bytes()


def test_the_frontier_stands_in_the_manifest(ruined: Path) -> None:
    result = compiled(ruined)
    assert read_manifest(manifest_path(result.output)).frontier == result.manifest.frontier
    assert "layers in int8" in ruined.with_name("out.report.md").read_text()


def test_fewer_samples_have_to_show_more() -> None:
    assert floor_db(4) > floor_db(64) > FLOOR_DB
    assert floor_db(10**6) == pytest.approx(FLOOR_DB, abs=0.01)


@pytest.mark.parametrize(("batch", "samples"), [(6, 66), (48, 192)])
def test_whole_batches_are_judged_where_a_model_takes_no_others(
    tmp_path: Path, ruined: Path, batch: int, samples: int
) -> None:
    model = onnx.load(ruined)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    onnx.save(model, fixed := tmp_path / "fixed.onnx")
    x = np.random.default_rng(1).normal(size=(samples, WIDTH)).astype(np.float32)
    feeds = [{"x": x[start : start + batch]} for start in range(0, samples, batch)]
    data = open_feeds("noise", lambda: feeds, input_specs(load_model(fixed).model))
    result = compile_model(fixed, tmp_path / "out.onnx", recipe=load_recipe("cpu"), data=data, options=QUIET)
    assert result.accuracy is not None
    assert all(output.sqnr_db >= FLOOR_DB for output in result.accuracy.outputs if output.sqnr_db is not None)


def test_another_recipe_measures_nothing_anew(ruined: Path) -> None:
    """The samples that are held back are the same whether there is a floor or not."""
    used = []
    for recipe in ("cpu", "portable"):
        output = ruined.with_name(f"{recipe}.onnx")
        data, options = data_for(ruined), replace(QUIET, gates=Gates(min_sqnr_db=0))
        used.append(
            compile_model(
                ruined, output, recipe=load_recipe(recipe), data=data, options=options
            ).manifest.data
        )
    first, second = used
    assert first is not None
    assert second is not None
    assert (first.measured > 0, first.recalled) == (True, 0)
    assert (second.measured, second.recalled > 0) == (0, True)
