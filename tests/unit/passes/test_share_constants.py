"""Tied tables and heads are stored once, and run on the kernels that they ran on."""

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

RNG = np.random.default_rng(0)
ROWS, COLUMNS = 320, 64
TABLE = RNG.normal(size=(ROWS, COLUMNS)).astype(np.float32)
TURNED = """main (int64[N,S] ids, float[N,S,64] h) => (float[N,S,64] e, float[N,S,320] y) {
    e = Gather(table, ids) t = Transpose <perm: ints = [1, 0]> (table) y = MatMul(h, t) }"""
TWICE = """main (int64[N,S] ids, float[N,S,64] h) => (float[N,S,64] e, float[N,S,320] y) {
    e = Gather(table, ids) y = MatMul(h, head) }"""
FORMS: dict[str, tuple[str, dict[str, np.ndarray]]] = {
    "turned in the graph": (TURNED, {}),
    "stored twice": (TWICE, {"head": TABLE.T.copy()}),
}


def stored_bytes(module: GraphModule) -> int:
    tensors = [value.const_value for value in module.graph.initializers.values()]
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("recipe", "bits", "kernel"),
    [
        ("cpu-dynamic", 8, "DynamicQuantizeMatMul"),
        ("cpu-size", 4, "MatMulNBits"),
        ("weight-only", 8, "MatMulNBits"),
        ("fp32", 32, "MatMul"),
    ],
)
def test_a_tied_table_is_stored_once(
    form: str, recipe: str, bits: int, kernel: str, build: Build, compiled: Compile
) -> None:
    body, more = FORMS[form]
    module = build(body, {"table": TABLE, **more})
    feeds = {
        "ids": RNG.integers(0, ROWS, (2, 5)),
        "h": RNG.normal(size=(2, 5, COLUMNS)).astype(np.float32),
    }
    before = run_model(module, feeds)
    chosen = load_recipe(recipe)
    compiled(module, chosen.pipeline, target=chosen.target)
    # Besides the integers: a scale, a factor and a zero point for each row, or for each 32 numbers.
    assert bits * TABLE.size / 8 <= stored_bytes(module) < bits * TABLE.size / 8 + 0.2 * TABLE.nbytes
    report = kernel_report(ir.to_proto(module.model), feeds, Run(threads=1), runs=1)
    ran = Counter(node.op_type for node in report.nodes)
    assert ran[kernel] == 1
    assert not {"Transpose", "Reshape"} & ran.keys()
    after = run_model(module, feeds)
    for name, expected in before.items():
        # Half a step of 4 bits is a fifteenth of the largest of a block of 32, which is below 4 sigma.
        error = np.linalg.norm(after[name] - expected) / np.linalg.norm(expected)
        assert error < {4: 0.2, 8: 0.03, 32: 1e-6}[bits]
