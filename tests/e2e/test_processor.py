"""A model is compiled for a processor; its manifest names it, and repeats the build on every other."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxq import (
    CalibrationTable,
    CompileOptions,
    CompileResult,
    Dataset,
    compile_model,
    load_model,
    load_recipe,
    open_feeds,
)
from onnxq.calibration.data import input_specs
from onnxq.manifest import manifest_path
from onnxq.processor import PRETENDED, PROCESSORS, at_hand
from onnxq.recipe import Recipe, load_recipe_table, parse_recipe

QUIET = CompileOptions(validate=False, bench=False, choose=False)
WARNING = "sums of products can saturate on this processor"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one product."""
    graph = onnx.parser.parse_graph("main (float[N,16] x) => (float[N,8] y) { y = MatMul(x, w) }")
    weight = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    opsets = [onnx.helper.make_opsetid("", 21)]
    path = tmp_path_factory.mktemp("source") / "model.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def samples(model: Path) -> Dataset:
    x = np.random.default_rng(1).normal(size=(8, 16)).astype(np.float32)
    return open_feeds("noise", lambda: [{"x": x}], input_specs(load_model(model).model))


def build(model: Path, output: Path, recipe: Recipe, data: Dataset | None = None) -> CompileResult:
    return compile_model(model, output, recipe=recipe, data=data, options=QUIET)


def largest_weight(path: Path) -> int:
    weights = [
        onnx.numpy_helper.to_array(one)
        for one in onnx.load(path).graph.initializer
        if one.data_type == onnx.TensorProto.INT8 and len(one.dims) == 2
    ]
    return max(int(np.abs(weight.astype(int)).max()) for weight in weights)


@pytest.mark.parametrize(("first", "then"), [("avx2", "avx512_vnni"), ("amx", "avx2"), ("arm_dot", "avx512")])
def test_a_manifest_gives_the_same_bytes_on_any_processor(
    model: Path, samples: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, then: str
) -> None:
    monkeypatch.setenv(PRETENDED, first)
    built = build(model, tmp_path / "built.onnx", load_recipe("cpu"), samples)
    assert (largest_weight(built.output) < 127) is PROCESSORS[first].saturates
    monkeypatch.setenv(PRETENDED, then)
    manifest = manifest_path(built.output)
    table = CalibrationTable.from_json(load_recipe_table(manifest) or "", "manifest")
    repeated = compile_model(
        model, tmp_path / "again.onnx", recipe=load_recipe(manifest), table=table, options=QUIET
    )
    assert repeated.output.read_bytes() == built.output.read_bytes()
    assert repeated.manifest.processor == built.manifest.processor
    fresh = build(model, tmp_path / "fresh.onnx", load_recipe("cpu"), samples)
    assert fresh.output.read_bytes() != built.output.read_bytes()


@pytest.mark.parametrize("name", ["avx2", "avx512_vnni"])
def test_the_manifest_says_what_it_assumed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(PRETENDED, name)
    result = build(model, tmp_path / "out.onnx", load_recipe("cpu-dynamic"))
    content = json.loads(manifest_path(result.output).read_text())
    summary = PROCESSORS[name].summary
    assert content["recipe"]["processor"] == name
    assert content["processor"] == {"name": name, "saturates": name == "avx2", "summary": summary}
    report = result.output.with_suffix(".report.md").read_text()
    assert f"Compiled for the processor {name}; its products: {summary}." in report


def test_no_processor_is_assumed_where_none_matters(model: Path, tmp_path: Path) -> None:
    manifest = build(model, tmp_path / "out.onnx", load_recipe("cuda")).manifest
    assert manifest.processor is None
    assert manifest.recipe.processor is None


def test_a_copy_of_a_recipe_gives_what_the_recipe_gives(
    model: Path, samples: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PRETENDED, "avx2")
    copy = parse_recipe(load_recipe("cpu").to_toml(), where="copy")
    outputs = [
        build(model, tmp_path / f"{number}.onnx", recipe, samples).output
        for number, recipe in enumerate((load_recipe("cpu"), copy))
    ]
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    assert 63 <= largest_weight(outputs[1]) < 127  # as far as their neighbours allow


def test_a_recipe_may_name_another_processor_than_the_one_at_hand(
    model: Path, samples: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PRETENDED, "avx2")
    text = load_recipe("cpu").to_toml()
    other = parse_recipe(f'processor = "amx"\n{text}', where="mine.toml")
    result = build(model, tmp_path / "out.onnx", other, samples)
    assert largest_weight(result.output) == 127
    assert any(WARNING in warning for warning in result.manifest.warnings)


def test_what_can_saturate_here_is_warned_of(
    model: Path, samples: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PRETENDED, "avx512_vnni")
    built = build(model, tmp_path / "built.onnx", load_recipe("cpu"), samples)
    # Where this very machine saturates, pretending does not make it right.
    assert any(WARNING in warning for warning in built.manifest.warnings) == at_hand().saturates
    monkeypatch.setenv(PRETENDED, "avx2")
    table = CalibrationTable.from_json(load_recipe_table(manifest_path(built.output)) or "", "manifest")
    repeated = compile_model(
        model,
        tmp_path / "again.onnx",
        recipe=load_recipe(manifest_path(built.output)),
        table=table,
        options=QUIET,
    )
    assert [warning for warning in repeated.manifest.warnings if WARNING in warning] == [
        f"MatMulIntegerToFloat 'y_fused': {WARNING} (avx2), as the int8 weights were made for another: "
        "compile for it, and without bits=8"
    ]
    safe = build(model, tmp_path / "safe.onnx", load_recipe("cpu"), samples)
    assert not any(WARNING in warning for warning in safe.manifest.warnings)
