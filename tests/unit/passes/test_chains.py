"""Between convolutions, ONNX Runtime stays in integers and in one layout, and computes what the pairs say."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from onnxq.ir.module import GraphModule, array_of
from onnxq.recipe import load_recipe
from onnxq.runtime.kernels import kernel_report
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session
from onnxq.testing.laws import run_model

pytest.importorskip("onnxruntime", reason="the kernels are ONNX Runtime's")

Build = Callable[..., GraphModule]
Compile = Callable[..., GraphModule]

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 16, 6, 6)).astype(np.float32)
WEIGHTS = {
    "v": RNG.normal(size=(16, 16, 1, 1)).astype(np.float32) / 4,
    "w": RNG.normal(size=(16, 16, 1, 1)).astype(np.float32) / 4,
    "three": np.float32(3),
    "zero": np.float32(0),
    "six": np.float32(6),
    "around": np.array([0, 0, 1, 1, 0, 0, 1, 0]),
    "halves": np.array([8, 8]),
    "twice": np.array([1, 1, 2, 2], np.float32),
}
CHAINS = {
    "s = Sigmoid(a) y = Mul(a, s)": {"QLinearSigmoid": 1, "QLinearMul": 1},
    "s = Add(a, three) c = Clip(s, zero, six) y = Mul(a, c)": {"QLinearAdd": 1, "QLinearMul": 1},
    "y = HardSwish(a)": {"QLinearAdd": 1, "QLinearMul": 1},
    "s = HardSigmoid(a) y = Mul(s, a)": {"QLinearAdd": 1, "QLinearMul": 1},
    "g = GlobalAveragePool(a) e = Conv(g, v) s = HardSigmoid(e) y = Mul(a, s)": {
        "QLinearGlobalAveragePool": 1,
        "QLinearConv": 1,
        "QLinearMul": 1,
    },
    "g = GlobalAveragePool(a) e = Conv(g, v) s = Sigmoid(e) y = Mul(a, s)": {
        "QLinearGlobalAveragePool": 1,
        "QLinearConv": 1,
        "QLinearSigmoid": 1,
        "QLinearMul": 1,
    },
    "p, q = Split <axis: int = 1> (a, halves) s = Mul(p, q) y = Concat <axis: int = 1> (s, q)": {
        "Split": 1,
        "QLinearMul": 1,
        "QLinearConcat": 1,
    },
    "b = Conv(x, v) s = Add(a, b) y = Relu(s)": {"QLinearConv": 1, "QLinearAdd": 1},
    "s = LeakyRelu <alpha: float = 0.1> (a) y = AveragePool <kernel_shape: ints = [2, 2]> (s)": {
        "QLinearLeakyRelu": 1,
        "QLinearAveragePool": 1,
    },
    "p = Pad(a, around) y = Sigmoid(p)": {"Pad": 1, "QLinearSigmoid": 1},
    'y = Resize <mode: string = "nearest"> (a, "", twice)': {"Resize": 1},
}
AT_THE_ENDS = {"QuantizeLinear": 1, "Transpose": 2, "QLinearConv": 2, "DequantizeLinear": 1}


def _between(body: str, build: Build) -> GraphModule:
    """Return two convolutions with ``body`` between them."""
    nodes = f"a = Conv(x, v) {body} z = Conv(y, w)"
    reads = {name: array for name, array in WEIGHTS.items() if f"{name})" in nodes or f"{name}," in nodes}
    return build(f"main (float[2,16,6,6] x) => (float[N,C,H,W] z) {{ {nodes} }}", reads)


@pytest.mark.parametrize(("body", "kernels"), CHAINS.items())
@pytest.mark.usefixtures("kernels_of_the_processor")
def test_a_chain_runs_in_integer_kernels_and_one_layout(
    body: str, kernels: dict[str, int], build: Build, compiled: Compile
) -> None:
    module = compiled(_between(body, build), load_recipe("cpu").pipeline, {"x": X})
    report = kernel_report(ir.to_proto(module.model), {"x": X}, Run(threads=1), runs=1)
    ran = Counter(node.op_type for node in report.nodes)
    assert ran == Counter(AT_THE_ENDS) + Counter(kernels)


@pytest.mark.parametrize(("body", "kernels"), CHAINS.items())
def test_the_kernels_compute_what_the_graph_says(
    body: str, kernels: dict[str, int], build: Build, compiled: Compile
) -> None:
    module = compiled(_between(body, build), load_recipe("cpu").pipeline, {"x": X})
    fast = open_session(ir.to_proto(module.model), Run(threads=1)).run({"x": X})["z"]
    # A number that lies between two steps may be rounded to either, by the first convolution and by each
    # operator of the chain; as every grid is as wide as what the one before can reach, this is one step of y
    # for each. The last convolution sums them with its weights, and rounds once more.
    last = next(node for node in module.graph if node.name == "z")
    steps = (1 + len(kernels)) * _step(last.inputs[0])
    bound = float(np.abs(WEIGHTS["w"]).sum(axis=1).max()) * steps + _step(module.graph.outputs[0])
    assert np.abs(fast - run_model(module, {"x": X})["z"]).max() <= bound


def _step(value: ir.Value | None) -> float:
    """Return the step of the grid that ``value`` was restored from."""
    restored = None if value is None else value.producer()
    return 0.0 if restored is None else float(array_of(restored.inputs[1]))


def test_what_no_layer_reads_in_the_end_stays_in_float(build: Build, compiled: Compile) -> None:
    nodes = "a = Conv(x, v) s = Sigmoid(a) m = Mul(a, s) z = Softmax(m)"
    body = f"main (float[2,16,6,6] x) => (float[2,16,6,6] z) {{ {nodes} }}"
    module = compiled(build(body, {"v": WEIGHTS["v"]}), load_recipe("cpu").pipeline, {"x": X})
    report = kernel_report(ir.to_proto(module.model), {"x": X}, Run(threads=1), runs=1)
    assert not {node.op_type for node in report.nodes} & {"QLinearSigmoid", "QLinearMul"}
