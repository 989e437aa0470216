"""What the passes write is what ONNX Runtime turns into its integer kernels.

These tests guard against a release of ONNX Runtime whose fusions have changed.
"""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from onnxq.ir.module import GraphModule
from onnxq.recipe import load_recipe
from onnxq.runtime.kernels import Kind, kernel_report
from onnxq.runtime.run import Run
from onnxq.testing.laws import run_model

pytest.importorskip("onnxruntime", reason="the kernels are ONNX Runtime's")

Build = Callable[..., GraphModule]
Compile = Callable[..., GraphModule]

RNG = np.random.default_rng(0)
WEIGHTS = {
    "w": RNG.normal(size=(16, 8)).astype(np.float32),
    "turned": RNG.normal(size=(8, 16)).astype(np.float32),
    "b": RNG.normal(size=8).astype(np.float32),
    "conv_w": RNG.normal(size=(8, 16, 3, 3)).astype(np.float32),
    "six": np.float32(6),
    "zero": np.float32(0),
}
FLAT = RNG.normal(size=(4, 16)).astype(np.float32)
TOKENS = RNG.normal(size=(2, 4, 16)).astype(np.float32)
IMAGE = RNG.normal(size=(2, 16, 6, 6)).astype(np.float32)

LINEAR_2D = "main (float[N,16] x) => (float[N,8] y) { h = MatMul(x, w) y = Add(h, b) }"
LINEAR_3D = "main (float[N,S,16] x) => (float[N,S,8] y) { h = MatMul(x, w) y = Add(h, b) }"
GEMM = "main (float[N,16] x) => (float[N,8] y) { y = Gemm <transB: int = 1> (x, turned, b) }"
SCALED_GEMM = "main (float[N,16] x) => (float[N,8] y) { y = Gemm <alpha: float = 0.5> (x, w, b) }"
CONV = "main (float[N,16,6,6] x) => (float[N,8,4,4] y) { h = Conv(x, conv_w, b) y = Relu(h) }"
CLIPPED = "main (float[N,16,6,6] x) => (float[N,8,4,4] y) { h = Conv(x, conv_w, b) y = Clip(h, zero, six) }"


def products(module: GraphModule, x: np.ndarray) -> list[str]:
    """Return the operators that computed products, in integers or not."""
    report = kernel_report(ir.to_proto(module.model), {"x": x}, Run(threads=1), runs=1)
    wanted = (Kind.INTEGER, Kind.WEIGHT_ONLY, Kind.FLOAT)
    return [node.op_type for node in report.nodes if node.kind in wanted]


@pytest.mark.parametrize(
    ("recipe", "body", "x", "kernel"),
    [
        ("cpu", LINEAR_3D, TOKENS, "MatMulIntegerToFloat"),
        ("cpu", LINEAR_2D, FLAT, "MatMulIntegerToFloat"),
        ("all-tensors", GEMM, FLAT, "QGemm"),
        ("cpu", SCALED_GEMM, FLAT, "MatMulIntegerToFloat"),
        ("cpu", CONV, IMAGE, "QLinearConv"),
        ("cpu", CLIPPED, IMAGE, "QLinearConv"),
        ("cpu-dynamic", LINEAR_3D, TOKENS, "DynamicQuantizeMatMul"),
        ("cpu-dynamic", LINEAR_2D, FLAT, "DynamicQuantizeMatMul"),
        ("cpu-dynamic", GEMM, FLAT, "DynamicQuantizeMatMul"),
    ],
)
@pytest.mark.usefixtures("kernels_of_the_processor")
def test_a_layer_runs_in_its_integer_kernel(
    recipe: str, body: str, x: np.ndarray, kernel: str, build: Build, compiled: Compile
) -> None:
    reads = {name: array for name, array in WEIGHTS.items() if f" {name}" in body.partition("{")[2]}
    module = build(body, reads)
    before = run_model(module, {"x": x})["y"]
    compiled(module, load_recipe(recipe).pipeline, {"x": x})
    assert products(module, x) == [kernel]
    # 8 bits leave 256 steps to each activation and weight: a few per cent of the output, not more.
    error = run_model(module, {"x": x})["y"] - before
    assert np.linalg.norm(error) < 0.03 * np.linalg.norm(before)


def test_without_sum_biases_a_matrix_product_with_bias_runs_in_float(build: Build, compiled: Compile) -> None:
    reads = {name: WEIGHTS[name] for name in ("w", "b")}
    module = compiled(build(LINEAR_2D, reads), "encode-weights,encode-activations,insert-qdq", {"x": FLAT})
    assert products(module, FLAT) == ["Gemm"]


def test_two_layers_that_share_a_weight_both_run_in_integers(build: Build, compiled: Compile) -> None:
    nodes = "f = MatMul(x, w) n = Neg(x) g = MatMul(n, w) y = Sub(f, g)"
    body = f"main (float[N,S,16] x) => (float[N,S,8] y) {{ {nodes} }}"
    module = compiled(build(body, {"w": WEIGHTS["w"]}), load_recipe("cpu").pipeline, {"x": TOKENS})
    assert products(module, TOKENS) == ["MatMulIntegerToFloat", "MatMulIntegerToFloat"]


def test_a_clip_of_an_old_operator_set_is_absorbed_too(build: Build, compiled: Compile) -> None:
    body = (
        "main (float[N,16,6,6] x) => (float[N,8,4,4] y) { h = Conv(x, conv_w) "
        "y = Clip <min: float = 0.0, max: float = 6.0> (h) }"
    )
    module = build(body, {"conv_w": WEIGHTS["conv_w"]}, '<ir_version: 6, opset_import: ["" : 10]>')
    compiled(module, load_recipe("cpu").pipeline, {"x": IMAGE})
    report = kernel_report(ir.to_proto(module.model), {"x": IMAGE}, Run(threads=1), runs=1)
    ran = {node.op_type for node in report.nodes} - {"Transpose"}
    assert ran == {"QuantizeLinear", "QLinearConv", "DequantizeLinear"}
