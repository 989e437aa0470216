"""pack-attention against what it replaces, in ONNX Runtime: with every kind of mask that it takes."""

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from onnxq.ir.module import GraphModule
from onnxq.ir.text import parse
from onnxq.kernels import load_kernels
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.runtime.run import Run
from onnxq.target import find_target

pytest.importorskip("onnxruntime", reason="runs the models")
BATCH, TOKENS, WIDTH, HEADS = 2, 5, 8, 2
TEXT = """<ir_version: 11, opset_import: ["" : 23]>
main (float[N,T,8] x, float[{mask}] mask) => (float[N,T,8] y)
<float[8,8] wq = {{{wq}}}, float[8,8] wk = {{{wk}}}, float[8,8] wv = {{{wv}}}, float[8] b = {{{b}}}>
{{
    qw = MatMul(x, wq)
    q = Add(qw, b)
    k = MatMul(x, wk)
    vw = MatMul(x, wv)
    v = Add(b, vw)
    y = Attention <q_num_heads = 2, kv_num_heads = 2{scale}> (q, k, v, mask)
}}"""


def module(mask: str, scale: str, rng: np.random.Generator) -> GraphModule:
    numbers = {
        name: ", ".join(f"{value:.4f}" for value in rng.normal(0, 0.5, size))
        for name, size in (("wq", 64), ("wk", 64), ("wv", 64), ("b", 8))
    }
    return parse(TEXT.format(mask=mask, scale=scale, **numbers))


def pack(module: GraphModule) -> list[str]:
    PassManager(parse_pipeline("pack-attention,remove-dead"), find_target("cuda")).run(module)
    return [f"{node.domain}:{node.op_type}" for node in module.graph]


def output(module: GraphModule, feeds: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    from onnxq.runtime.session import open_session

    found: NDArray[np.float32] = open_session(ir.to_proto(module.model), Run(threads=1)).run(feeds)["y"]
    return found


@pytest.mark.parametrize("scale", ["", ", scale = 0.3"])
@pytest.mark.parametrize(
    ("axes", "shape", "nodes"),
    [
        ("N,1,T,T", (BATCH, 1, TOKENS, TOKENS), [":Attention"]),
        ("1,2,T,T", (1, HEADS, TOKENS, TOKENS), [":Attention"]),
        ("T,T", (TOKENS, TOKENS), [":Unsqueeze", ":Attention"]),
    ],
)
def test_the_packed_operator_gives_what_the_plain_one_gave(
    axes: str, shape: tuple[int, ...], nodes: list[str], scale: str
) -> None:
    rng = np.random.default_rng(len(axes))
    before = module(axes, scale, rng)
    after = GraphModule(before.model.clone())
    mask = rng.normal(0, 1, shape).astype(np.float32)
    mask[..., -2:] = -1e4  # padding; the first of the two is seen by the last token alone
    mask[..., -1, -2] = 0
    feeds = {"x": rng.normal(0, 1, (BATCH, TOKENS, WIDTH)).astype(np.float32), "mask": mask}
    assert [name.replace("com.microsoft", "") for name in pack(after)] == nodes
    # Sums of 8 and 5 products of numbers near 1, in another order: some roundings of 2**-24 each.
    np.testing.assert_allclose(output(after, feeds), output(before, feeds), atol=1e-5)


def test_the_packed_operator_has_a_kernel_on_cuda_in_half_precision() -> None:
    packed = module("N,1,T,T", "", np.random.default_rng(0))
    passes = "infer-shapes,lower-precision,infer-shapes,pack-attention,remove-dead"
    PassManager(parse_pipeline(passes), find_target("cuda")).run(packed)
    (attention,) = (node for node in packed.graph if node.op_type == "Attention")
    assert (attention.domain, attention.inputs[0].dtype) == ("com.microsoft", ir.DataType.FLOAT16)  # type: ignore[union-attr]
    assert list(load_kernels("cuda").missing(packed)) == []
