"""Weights and tables in blocks: what is stored, and the kernels of ONNX Runtime that read it."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from onnxq.ir.module import GraphModule
from onnxq.recipe import load_recipe
from onnxq.runtime.kernels import kernel_report
from onnxq.runtime.run import Run
from onnxq.testing.laws import run_model

pytest.importorskip("onnxruntime", reason="the kernels are ONNX Runtime's")

Build = Callable[..., GraphModule]
Compile = Callable[..., GraphModule]

RECIPE = load_recipe("cpu-size")
RNG = np.random.default_rng(0)
BIAS = RNG.normal(size=8).astype(np.float32)

LINEAR_2D = "main (float[N,K] x) => (float[N,8] y) { h = MatMul(x, w) y = Add(h, b) }"
LINEAR_3D = "main (float[N,S,K] x) => (float[N,S,8] y) { h = MatMul(x, w) y = Add(h, b) }"
GEMM = "main (float[N,K] x) => (float[N,8] y) { y = Gemm(x, w, b) }"
TWICE = "main (float[N,K] x) => (float[N,8] y) { f = MatMul(x, w) n = Neg(x) g = MatMul(n, w) y = Sub(f, g) }"


def kernels(module: GraphModule, feeds: dict[str, np.ndarray]) -> Counter[str]:
    """Return how often each operator ran."""
    report = kernel_report(ir.to_proto(module.model), feeds, Run(threads=1), runs=1)
    return Counter(node.op_type for node in report.nodes)


@pytest.mark.parametrize("body", [LINEAR_2D, LINEAR_3D, GEMM, TWICE])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("length", [40, 64, 129])
def test_a_layer_runs_on_its_stored_integers(
    body: str, bits: int, symmetric: bool, length: int, build: Build, compiled: Compile
) -> None:
    settings = [
        f"encode-weight-blocks.bits={bits}",
        f"encode-weight-blocks.symmetric={str(symmetric).lower()}",
    ]
    weight = RNG.normal(size=(length, 8)).astype(np.float32)
    constants = {"w": weight} if body is TWICE else {"w": weight, "b": BIAS}
    module = build(body.replace("K", str(length)), constants)
    x = RNG.normal(size=(2, 4, length) if body is LINEAR_3D else (4, length)).astype(np.float32)
    before = run_model(module, {"x": x})["y"]
    compiled(module, RECIPE.with_options(settings).pipeline, target="cpu-size")
    ran = kernels(module, {"x": x})
    assert ran["MatMulNBits"] == (2 if body is TWICE else 1)
    assert not {"MatMul", "Gemm", "DequantizeLinear"} & ran.keys()
    # A step is at most 2 * 4 sigma / (2**bits - 2) in normal weights, and half of it uniform: a root mean
    # square of 0.17 and 0.01 of them. The kernel rounds its input to 8 bits too, by blocks: 0.01.
    error = np.linalg.norm(run_optimized(module, x) - before) / np.linalg.norm(before)
    assert error < {4: 0.2, 8: 0.03}[bits]


def run_optimized(module: GraphModule, x: np.ndarray) -> np.ndarray:
    """Run as a user does, with all of ONNX Runtime's fusions."""
    from onnxq.runtime.session import open_session

    return open_session(ir.to_proto(module.model), Run(threads=1)).run({"x": x})["y"]


@pytest.mark.parametrize("block", [32, 64, 128])
@pytest.mark.parametrize("columns", [34, 64, 160])
def test_a_table_is_gathered_from_nibbles(block: int, columns: int, build: Build, compiled: Compile) -> None:
    table = RNG.normal(size=(40, columns)).astype(np.float32)
    body = f"main (int64[N,S] ids) => (float[N,S,{columns}] y) {{ y = Gather(table, ids) }}"
    module = build(body, {"table": table})
    compiled(module, f"encode-embeddings{{block={block}}},insert-qdq,remove-dead", target="cpu-size")
    ids = RNG.integers(-40, 40, (2, 5))
    assert kernels(module, {"ids": ids}) == {"GatherBlockQuantized": 1}
    # Half a step of the widest block, which the zero point may shift by half a step more.
    step = (table.max() - table.min()) / 15
    assert np.abs(run_model(module, {"ids": ids})["y"] - table[ids]).max() <= step
    stored = module.graph.initializers["table_q"].const_value
    assert stored is not None
    assert stored.nbytes == table.size // 2


def test_a_model_of_an_old_operator_set_is_raised(build: Build, compiled: Compile) -> None:
    header = '<ir_version: 8, opset_import: ["" : 17]>'
    constants = {"w": RNG.normal(size=(64, 8)).astype(np.float32), "b": BIAS}
    module = compiled(
        build(LINEAR_3D.replace("K", "64"), constants, header), RECIPE.pipeline, target="cpu-size"
    )
    assert (module.opset, module.model.ir_version) == (21, 10)
    x = RNG.normal(size=(2, 4, 64)).astype(np.float32)
    assert kernels(module, {"x": x})["MatMulNBits"] == 1


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        ("main (float[1,32,9] x) => (float[1,32,7] y) { y = Conv(x, w) }", (32, 32, 3)),
        ("main (float[1,16,9,9] x) => (float[1,16,7,7] y) { y = Conv(x, w) }", (16, 16, 3, 3)),
        ("main (float[1,8,5,5,5] x) => (float[1,16,3,3,3] y) { y = Conv(x, w) }", (16, 8, 3, 3, 3)),
        ("main (float[1,16,9,9] x) => (float[1,16,11,11] y) { y = ConvTranspose(x, w) }", (16, 16, 3, 3)),
        ("main (float[4,5,64] x) => (float[4,5,16] y) { y = MatMul(x, w) }", (4, 64, 16)),
    ],
)
def test_what_is_no_matrix_is_stored_in_8_bits(
    body: str, shape: tuple[int, ...], build: Build, compiled: Compile
) -> None:
    weight = RNG.normal(size=shape).astype(np.float32)
    module = build(body, {"w": weight})
    x = RNG.normal(size=tuple(module.graph.inputs[0].shape or ())).astype(np.float32)
    before = run_model(module, {"x": x})["y"]
    compiled(module, RECIPE.pipeline, target="cpu-size")
    stored = [one.const_value for one in module.graph.initializers.values()]
    bytes_of = [one.nbytes for one in stored if one is not None]
    # A byte for each element, and for each channel, of which there are less than an eighth as many, a scale,
    # a zero point and perhaps a factor.
    assert weight.size <= sum(bytes_of) < 2 * weight.size
    # A step is at most 4.5 sigma / 127, and half of it uniform: a root mean square of 0.01 sigma.
    error = np.linalg.norm(run_optimized(module, x) - before) / np.linalg.norm(before)
    assert error < 0.02
