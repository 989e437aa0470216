"""Compiling for NVIDIA GPUs, from file to file: on the CPU where there is no GPU, else on it and timed."""

import json
from pathlib import Path

import onnx_ir as ir
import pytest

from onnxq import CompileOptions, Dataset, compile_model, load_model, load_recipe, open_feeds
from onnxq.calibration.data import input_specs
from onnxq.digits import DIGITS_MODEL, load_digits_split
from onnxq.kernels import load_kernels
from onnxq.manifest import manifest_path, report_path
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
    ("name", "least"), [("cuda", 0.99999), ("cuda-measured", 0.99999), ("cuda-weights-8", 0.999)]
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


@needs_no_gpu
def test_the_manifest_names_the_options_that_fast_kernels_want(data: Dataset, tmp_path: Path) -> None:
    options = CompileOptions(validate=False, bench=False)
    recipe = load_recipe("cuda-weights-4")
    result = compile_model(DIGITS_MODEL, tmp_path / "out.onnx", recipe=recipe, options=options)
    wanted = {"ep.cuda.fpa_intb_gemm": "1"}
    assert result.manifest.session_options == wanted
    assert json.loads(manifest_path(result.output).read_text())["session_options"] == wanted
    assert "session configuration entries: ep.cuda.fpa_intb_gemm=1." in report_path(result.output).read_text()
    open_session(result.output, config=wanted)  # unknown entries do no harm on the CPU


def test_for_tensorrt_every_grid_is_symmetric(data: Dataset, tmp_path: Path) -> None:
    options = CompileOptions(validate=False, bench=False)
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
