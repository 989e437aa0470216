"""Compiling for NVIDIA GPUs, from file to file: on the CPU where there is no GPU, else on it and timed."""

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxq import CompileOptions, Dataset, compile_model, load_model, load_recipe, open_feeds
from onnxq.calibration.data import input_specs
from onnxq.digits import DIGITS_MODEL, load_digits_split
from onnxq.ir.rounding import spell_out_rounding
from onnxq.kernels import load_kernels
from onnxq.manifest import manifest_path, report_path
from onnxq.runtime.fallback import refuse_fallback
from onnxq.runtime.kernels import kernel_report
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session, usable_provider

pytest.importorskip("onnxruntime", reason="compares the models")
needs_no_gpu = pytest.mark.skipif(usable_provider("cuda") is not None, reason="there is a GPU")


@pytest.fixture(scope="module")
def data() -> Dataset:
    pytest.importorskip("sklearn", reason="needs the demo extra")
    images = load_digits_split().calibration_images
    specs = input_specs(load_model(DIGITS_MODEL).model)
    return open_feeds("digits", lambda: [{"image": images[i : i + 8]} for i in range(0, 128, 8)], specs)


@needs_no_gpu
@pytest.mark.parametrize(
    ("name", "least"),
    [("cuda", 0.99999), ("cuda-measured", 0.99999), ("cuda-weights-8", 0.999), ("cuda-weights-fp8", 0.999)],
)
def test_a_compilation_is_compared_but_not_timed(
    name: str, least: float, data: Dataset, tmp_path: Path
) -> None:
    recipe = load_recipe(name)
    result = compile_model(
        DIGITS_MODEL, tmp_path / "out.onnx", recipe=recipe, data=data, options=CompileOptions(tune=False)
    )
    assert result.latency is None
    assert result.accuracy is not None
    assert (result.accuracy.outputs[0].cosine or 0) >= least
    assert "provider cuda is not here: compared on the CPU, and not timed" in result.manifest.warnings
    assert result.manifest.output.size_bytes < 0.6 * result.manifest.source.size_bytes
    module = load_model(result.output)
    assert [(node.op_type, why) for node, why in load_kernels("cuda").missing(module)] == []
    assert module.graph.outputs[0].dtype == module.graph.inputs[0].dtype == ir.DataType.FLOAT
    packed = [node.op_type == "Attention" for node in module.graph if node.domain == "com.microsoft"]
    assert any(packed) == ("weights" not in name)


@needs_no_gpu
def test_the_manifest_names_the_options_that_fast_kernels_want(data: Dataset, tmp_path: Path) -> None:
    options = CompileOptions(validate=False, bench=False)
    recipe = load_recipe("cuda-weights-4")
    result = compile_model(DIGITS_MODEL, tmp_path / "out.onnx", recipe=recipe, options=options)
    wanted = {"ep.cuda.fpa_intb_gemm": "1"}
    assert result.manifest.session_options == wanted
    assert json.loads(manifest_path(result.output).read_text())["session_options"] == wanted
    assert "session configuration entries: ep.cuda.fpa_intb_gemm=1." in report_path(result.output).read_text()
    open_session(result.output, Run(entries=wanted))  # unknown entries do no harm on the CPU


@needs_no_gpu
def test_for_tensorrt_every_grid_is_symmetric(data: Dataset, tmp_path: Path) -> None:
    options = CompileOptions(bench=False)
    result = compile_model(
        DIGITS_MODEL, tmp_path / "out.onnx", recipe=load_recipe("tensorrt"), data=data, options=options
    )
    module = load_model(result.output)
    pairs = [node for node in module.graph if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    zero_points = [node.inputs[2].const_value for node in pairs if node.inputs[2] is not None]
    assert pairs
    assert len(zero_points) == len(pairs)
    assert {tensor.dtype for tensor in zero_points if tensor is not None} == {ir.DataType.INT8}
    assert not any(tensor.numpy().any() for tensor in zero_points if tensor is not None)
    assert result.manifest.session_options == {}
    assert result.accuracy is not None
    # As with float8, each value loses at most half a step, in directions that do not add up.
    assert (result.accuracy.outputs[0].cosine or 0) >= 0.99


def test_float8_weights_are_stored_as_the_operator_wants_them(data: Dataset, tmp_path: Path) -> None:
    options = CompileOptions(validate=False, bench=False)
    recipe = load_recipe("cuda-weights-fp8")
    result = compile_model(DIGITS_MODEL, tmp_path / "out.onnx", recipe=recipe, options=options)
    module = load_model(result.output)
    products = [node for node in module.graph if node.op_type == "MatMulBlockQuantizedFp8Weight"]
    assert len(products) > 8
    for node in products:
        weight, scale = (node.inputs[index].const_value for index in (1, 2))  # type: ignore[union-attr]
        assert (weight.dtype, scale.dtype) == (ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT)
        rows, columns = weight.shape
        assert columns % 16 == 0
        assert list(scale.shape) == [rows, -(-columns // 128)]
    assert not any(node.op_type == "DequantizeLinear" for node in module.graph)


def test_for_tensorrt_there_is_float8(data: Dataset, tmp_path: Path) -> None:
    recipe = load_recipe("tensorrt-fp8")
    result = compile_model(DIGITS_MODEL, tmp_path / "out.onnx", recipe=recipe, data=data)
    module = load_model(result.output)
    assert module.opset >= 19
    pairs = [node for node in module.graph if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    zero_points = [node.inputs[2].const_value for node in pairs if node.inputs[2] is not None]
    assert pairs
    assert {tensor.dtype for tensor in zero_points if tensor is not None} == {ir.DataType.FLOAT8E4M3FN}
    assert not any(tensor.numpy().any() for tensor in zero_points if tensor is not None)
    assert result.accuracy is not None
    # eps of float8 is 1/8: at most 1/16 of each value is lost, in directions that do not add up.
    assert (result.accuracy.outputs[0].cosine or 0) >= 0.998
    assert result.latency is None


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["cuda-weights-8", "cuda-weights-4", "cuda-weights-fp8"])
def test_weights_in_blocks_give_on_the_gpu_what_is_compared_without_one(
    cuda: None, name: str, data: Dataset, tmp_path: Path
) -> None:
    options = CompileOptions(validate=False, bench=False)
    result = compile_model(DIGITS_MODEL, tmp_path / "out.onnx", recipe=load_recipe(name), options=options)
    feeds = next(data.batches()).feeds
    wanted = result.manifest.session_options
    refuse_fallback(name, kernel_report(result.output, feeds, Run("cuda", entries=wanted)))
    found = open_session(result.output, Run("cuda", entries=wanted)).run(feeds)["logits"]
    plain = open_session(ir.to_proto(spell_out_rounding(load_model(result.output).model)))
    # Both round to float16 after each node; sums are in other orders, so last digits differ.
    np.testing.assert_allclose(found, plain.run(feeds)["logits"], atol=0.02 * np.abs(found).max())


@pytest.mark.cuda
def test_a_float16_model_runs_on_the_gpu(cuda: None, data: Dataset, tmp_path: Path) -> None:
    options = CompileOptions(tune=False)
    result = compile_model(
        DIGITS_MODEL, tmp_path / "out.onnx", recipe=load_recipe("cuda"), data=data, options=options
    )
    assert result.accuracy is not None
    assert (result.accuracy.outputs[0].cosine or 0) >= 0.9999
    assert result.latency is not None
    assert result.latency.provider == "cuda"
