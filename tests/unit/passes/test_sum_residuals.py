"""Sum for Add before a LayerNormalization: the same bits, without the slow fused kernel."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from onnxq.ir.module import GraphModule
from onnxq.runtime.kernels import kernel_report
from onnxq.runtime.run import Run
from onnxq.testing.laws import run_model

pytest.importorskip("onnxruntime", reason="the kernels are ONNX Runtime's")

BODY = """main (float[N,S,16] x, float[N,S,16] h) => (float[N,S,16] z)
{ [residual] s = Add(x, h) [norm] z = LayerNormalization(s, gamma, beta) }"""


@pytest.mark.parametrize("seed", range(3))
def test_the_outputs_are_equal_bit_for_bit(
    seed: int, build: Callable[..., GraphModule], compiled: Callable[..., GraphModule]
) -> None:
    rng = np.random.default_rng(seed)
    weights = {name: rng.normal(size=16).astype(np.float32) for name in ("gamma", "beta")}
    feeds = {name: rng.normal(size=(2, 5, 16)).astype(np.float32) for name in ("x", "h")}
    module = build(BODY, weights)
    before = run_model(module, feeds)["z"]
    assert ran(module, feeds) == {"SkipLayerNormalization"}
    compiled(module, "sum-residuals")
    np.testing.assert_array_equal(run_model(module, feeds)["z"], before)
    assert ran(module, feeds) == {"Sum", "LayerNormalization"}


def ran(module: GraphModule, feeds: dict[str, np.ndarray]) -> set[str]:
    report = kernel_report(ir.to_proto(module.model), feeds, Run(threads=1), runs=1)
    return {node.op_type for node in report.nodes}
