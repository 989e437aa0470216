"""Compiling the digits transformer from file to file, with everything that lies beside the result."""

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
    OnnxqError,
    calibrate_model,
    compile_model,
    load_model,
    load_recipe,
    open_data,
    open_feeds,
)
from onnxq.calibration.data import input_specs
from onnxq.digits import DIGITS_MODEL, load_digits_split
from onnxq.errors import CalibrationError, InputError, ToleranceError
from onnxq.ir.store import model_digest
from onnxq.manifest import manifest_path, report_path
from onnxq.runtime.gates import Gates
from onnxq.runtime.kernels import Kind, kernel_report

QUIET = CompileOptions(validate=False, bench=False, choose=False)


@pytest.fixture(scope="module")
def data() -> Dataset:
    pytest.importorskip("sklearn", reason="needs the demo extra")
    images = load_digits_split().calibration_images
    specs = input_specs(load_model(DIGITS_MODEL).model)
    return open_feeds("digits", lambda: [{"image": images[i : i + 8]} for i in range(0, 128, 8)], specs)


@pytest.fixture(scope="module")
def compiled(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> CompileResult:
    output = tmp_path_factory.mktemp("compiled") / "digits.onnx"
    options = CompileOptions(choose=False, tune=False)
    return compile_model(DIGITS_MODEL, output, recipe=load_recipe("cpu"), data=data, options=options)


@pytest.mark.usefixtures("kernels_of_the_processor")
def test_the_result_is_smaller_close_and_whole(compiled: CompileResult) -> None:
    assert compiled.manifest.output.size_bytes < 0.35 * compiled.manifest.source.size_bytes
    assert compiled.accuracy is not None
    # One class in 64 may flip: int8 moves logits by about a hundredth of their spread.
    assert (compiled.accuracy.outputs[0].agreement or 0) >= 1 - 1 / 64
    assert sorted(path.name for path in compiled.output.parent.iterdir()) == [
        "digits.manifest.json",
        "digits.onnx",
        "digits.report.md",
    ]


def test_every_weight_behind_the_patches_runs_in_an_integer_kernel(compiled: CompileResult) -> None:
    report = kernel_report(compiled.output, {"image": np.zeros((1, 1, 8, 8), np.float32)})
    assert report.kinds[Kind.INTEGER] == 13  # 12 MatMul and 1 Gemm; the Conv makes tokens of patches
    assert report.kinds[Kind.FLOAT] == 3  # it, and the attention cores of two layers


def test_inputs_and_outputs_keep_names_and_types(compiled: CompileResult) -> None:
    before, after = (onnx.load(path).graph for path in (DIGITS_MODEL, compiled.output))
    assert list(before.input) == list(after.input)
    assert [output.name for output in before.output] == [output.name for output in after.output]


def test_the_manifest_repeats_the_build_byte_for_byte(compiled: CompileResult, tmp_path: Path) -> None:
    path = manifest_path(compiled.output)
    table = CalibrationTable.from_json(json.dumps(json.loads(path.read_text())["table"]))
    again = tmp_path / "digits.onnx"
    compile_model(DIGITS_MODEL, again, recipe=load_recipe(path), table=table, options=QUIET)
    assert again.read_bytes() == compiled.output.read_bytes()


def test_the_model_says_where_it_comes_from(compiled: CompileResult) -> None:
    notes = {entry.key: entry.value for entry in onnx.load(compiled.output).metadata_props}
    assert notes["onnxq.recipe"] == "cpu"
    assert notes["onnxq.source.sha256"] == model_digest(DIGITS_MODEL)
    assert notes["onnxq.pipeline"].endswith("remove-dead")


def test_the_report_tells_what_was_left_alone(data: Dataset, tmp_path: Path) -> None:
    recipe = load_recipe("cpu").with_options(["encode-weights.exclude=*"])
    result = compile_model(DIGITS_MODEL, tmp_path / "d.onnx", recipe=recipe, data=data, options=QUIET)
    assert "excluded by its name" in report_path(result.output).read_text()


def test_batches_of_another_size_give_the_same_model(
    compiled: CompileResult, data: Dataset, tmp_path: Path
) -> None:
    images = load_digits_split().calibration_images[:128]
    one_by_one = open_feeds("digits", lambda: [{"image": images[i : i + 1]} for i in range(128)], data.inputs)
    output = tmp_path / "digits.onnx"
    compile_model(DIGITS_MODEL, output, recipe=load_recipe("cpu"), data=one_by_one, options=QUIET)
    # The float model rounds differently in another batch size, by some 1e-7 of a value; so may a scale.
    before, after = (_scales(path) for path in (compiled.output, output))
    assert before.keys() == after.keys()
    for name, scale in before.items():
        np.testing.assert_allclose(after[name], scale, rtol=1e-5)


def _scales(path: Path) -> dict[str, np.ndarray]:
    tensors = onnx.load(path).graph.initializer
    return {t.name: onnx.numpy_helper.to_array(t) for t in tensors if t.name.endswith("_scale")}


def test_without_data_activations_are_quantized_at_run_time(tmp_path: Path) -> None:
    result = compile_model(
        DIGITS_MODEL,
        tmp_path / "d.onnx",
        recipe=load_recipe("cpu-dynamic"),
        options=CompileOptions(bench=False),
    )
    assert any("random inputs" in warning for warning in result.manifest.warnings)
    operators = {node.op_type for node in onnx.load(result.output).graph.node}
    assert "DynamicQuantizeLinear" in operators
    assert "QuantizeLinear" not in operators


def test_static_recipes_need_data(tmp_path: Path) -> None:
    with pytest.raises(OnnxqError, match="there is no data"):
        compile_model(DIGITS_MODEL, tmp_path / "d.onnx", recipe=load_recipe("cpu"), options=QUIET)
    assert list(tmp_path.iterdir()) == []


def test_a_table_replaces_the_data(compiled: CompileResult, data: Dataset, tmp_path: Path) -> None:
    table = calibrate_model(DIGITS_MODEL, data, recipe=load_recipe("cpu"))
    output = tmp_path / "d.onnx"
    compile_model(DIGITS_MODEL, output, recipe=load_recipe("cpu"), table=table, options=QUIET)
    assert output.read_bytes() == compiled.output.read_bytes()


def test_a_table_of_another_model_is_refused(data: Dataset, tmp_path: Path) -> None:
    table = calibrate_model(DIGITS_MODEL, data, recipe=load_recipe("cpu"))
    other = tmp_path / "other.onnx"
    model = onnx.load(DIGITS_MODEL)
    model.doc_string = "another model"
    onnx.save(model, other)
    with pytest.raises(CalibrationError, match="another model"):
        compile_model(other, tmp_path / "d.onnx", recipe=load_recipe("cpu"), table=table, options=QUIET)


def test_a_missed_gate_leaves_the_model_and_says_no(data: Dataset, tmp_path: Path) -> None:
    options = CompileOptions(bench=False, gates=Gates(min_cosine=1.0))
    with pytest.raises(ToleranceError, match="cosine"):
        compile_model(
            DIGITS_MODEL, tmp_path / "d.onnx", recipe=load_recipe("cpu"), data=data, options=options
        )
    assert (tmp_path / "d.manifest.json").exists()


def test_the_source_is_never_overwritten(data: Dataset, tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    source.write_bytes(DIGITS_MODEL.read_bytes())
    with pytest.raises(InputError):
        compile_model(source, source, recipe=load_recipe("cpu"), data=data, options=QUIET)
    assert source.read_bytes() == DIGITS_MODEL.read_bytes()


def test_random_data_works_when_asked_for_by_name(tmp_path: Path) -> None:
    specs = input_specs(load_model(DIGITS_MODEL).model)
    data = open_data("random", specs)
    result = compile_model(
        DIGITS_MODEL, tmp_path / "d.onnx", recipe=load_recipe("cpu"), data=data, options=QUIET
    )
    assert any("random" in warning for warning in result.manifest.warnings)


def test_operators_of_other_domains_are_left_alone_and_named(tmp_path: Path) -> None:
    graph = onnx.parser.parse_graph(
        "main (float[N,4] x) => (float[N,4] y) { [g] y = com.microsoft.QuickGelu(x) }"
    )
    domains = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    source = tmp_path / "gelu.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=domains, ir_version=10), source)
    result = compile_model(source, tmp_path / "out.onnx", recipe=load_recipe("cpu-dynamic"), options=QUIET)
    assert result.manifest.warnings == ("left alone, as they are no standard operators: QuickGelu",)


def test_an_interrupt_while_timing_leaves_all_outputs_as_they_were(data: Dataset, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    compile_model(DIGITS_MODEL, output, recipe=load_recipe("weight-only"), options=QUIET)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def interrupt(stage: str, done: int, total: int | None) -> None:
        if stage == "timing":
            raise KeyboardInterrupt

    options = CompileOptions(choose=False, tune=False)
    with pytest.raises(KeyboardInterrupt):
        compile_model(
            *(DIGITS_MODEL, output),
            recipe=load_recipe("cpu"),
            data=data,
            options=options,
            on_progress=interrupt,
        )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_error_names_no_scratch_file(tmp_path: Path) -> None:
    """ONNX Runtime cannot load the operator; the model was written to a file for it."""
    model, output = tmp_path / "model.onnx", tmp_path / "out.onnx"
    text = (
        '<ir_version: 10, opset_import: ["" : 21, "own" : 1]> main (float[N,2] x) => (float[N,2] y) '
        "<float[2,2] w = {1,2,3,4}> { h = MatMul(x, w) y = own.Op(h) }"
    )
    onnx.save(onnx.parser.parse_model(text), model)
    dataset = open_data("random", input_specs(load_model(model).model))
    with pytest.raises(OnnxqError) as caught:
        compile_model(model, output, recipe=load_recipe("cpu"), data=dataset, options=QUIET)
    assert caught.value.where == "the model as prepared for calibration"
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
