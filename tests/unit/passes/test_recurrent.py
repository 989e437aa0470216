"""Recurrent layers and weights of bodies: stored in 8 bits, and as near as those allow."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from onnxq.ir.module import GraphModule
from onnxq.testing.laws import run_model

pytest.importorskip("onnxruntime", reason="the kernels are ONNX Runtime's")

Build = Callable[..., GraphModule]
Compile = Callable[..., GraphModule]

STEPS, BATCH, INPUTS, HIDDEN = 7, 3, 32, 48
DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}
BODY = """main (float[7,3,32] x, int32[3] lengths) => (float[7,D,3,48] y, float[D,3,48] h)
{ y, h = OP <hidden_size: int = 48, direction: string = "WAY"> (x, w, r, b, lengths) }"""


def weights(gates: int, directions: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    rows = gates * HIDDEN
    # Rows of different sizes, so that a scale for all of them would lose the small ones.
    sizes = np.geomspace(0.01, 0.3, rows)[:, None]
    return {
        "w": (rng.normal(size=(directions, rows, INPUTS)) * sizes).astype(np.float32),
        "r": (rng.normal(size=(directions, rows, HIDDEN)) * sizes).astype(np.float32),
        "b": rng.normal(size=(directions, 2 * rows)).astype(np.float32),
    }


def feeds() -> dict[str, np.ndarray]:
    x = np.random.default_rng(1).normal(size=(STEPS, BATCH, INPUTS)).astype(np.float32)
    return {"x": x, "lengths": np.array([7, 4, 1], np.int32)}


@pytest.mark.parametrize("way", DIRECTIONS)
@pytest.mark.parametrize(
    ("operator", "gates", "pipeline"),
    [("LSTM", 4, "quantize-lstm"), ("LSTM", 4, "store-weights"), ("GRU", 3, "store-weights")],
)
def test_a_recurrent_layer_is_as_near_as_8_bits_allow(
    operator: str, gates: int, pipeline: str, way: str, build: Build, compiled: Compile
) -> None:
    directions = DIRECTIONS[way]
    text = BODY.replace("OP", operator).replace("WAY", way).replace("D", str(directions))
    module = build(text, weights(gates, directions))
    before = run_model(module, feeds())
    compiled(module, f"infer-shapes,{pipeline},insert-qdq,remove-dead")
    after = run_model(module, feeds())
    stored = [value.const_value for value in module.graph.initializers.values()]
    integers = sum(
        tensor.size for tensor in stored if tensor is not None and tensor.dtype == ir.DataType.INT8
    )
    assert integers >= directions * gates * HIDDEN * (INPUTS + HIDDEN)
    for name, expected in before.items():
        # Weights, inputs and state have 8 bits: a part in 127 * sqrt(12) of the largest each, which is below
        # 4 sigma, so 0.01 of what is added up. Gates never steepen that, and a state hands on half of it.
        assert np.linalg.norm(after[name] - expected) < 0.04 * np.linalg.norm(expected)


def test_a_weight_of_a_loop_is_restored_once(build: Build, compiled: Compile) -> None:
    text = """main (float[4,64] x, int64 count) => (float[4,64] y) {
        y = Loop <body: graph = step (int64 i, bool go, float[4,64] s) => (bool on, float[4,64] t) {
            m = MatMul(s, w) t = Tanh(m) on = Identity(go) }> (count, , x) }"""
    weight = (np.random.default_rng(0).normal(size=(64, 64)) / 8).astype(np.float32)
    module = build(text, {"w": weight})
    given = {
        "x": np.random.default_rng(1).normal(size=(4, 64)).astype(np.float32),
        "count": np.array(3, np.int64),
    }
    before = run_model(module, given)["y"]
    compiled(module, "store-weights,insert-qdq,remove-dead")
    assert [node.op_type for node in module.graph] == ["DequantizeLinear", "Loop"]
    # A step is at most 4.5 sigma / 127: 0.01 of what a product adds up, three times.
    assert np.linalg.norm(run_model(module, given)["y"] - before) < 0.03 * np.linalg.norm(before)
