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


FLAGS = [[1] * 5, [1] * 3 + [0] * 2, [1] + [0] * 4, [0] * 5]
BY_LENGTHS = """
    tokens_1d = Shape <start = 1, end = 2> (x)
    tokens = Squeeze(tokens_1d)
    keys = Range(zero, tokens, one)
    column = Unsqueeze(given, axis)
    counts = Less(keys, column)
    keep = Unsqueeze(counts, middle)
    mask = Where(keep, nothing, least)"""
BY_FLAGS = """
    keep = Cast <to = 9> (given)
    spread = Unsqueeze(keep, middle)
    mask = Where(spread, nothing, least)"""
PADDED = """<ir_version: 11, opset_import: ["" : 23]>
main (float[N,T,8] x, int64[{given}] given) => (float[N,T,8] y)
<float[8,8] wq = {{{wq}}}, float[8,8] wk = {{{wk}}}, float[8,8] wv = {{{wv}}}, int64 zero = {{0}},
 int64 one = {{1}}, int64[1] axis = {{1}}, int64[2] middle = {{1, 2}}, int64[1] single = {{1}},
 float nothing = {{0}}, float least = {{{least}}}>
{{{mask}
    rows = Shape <start = 1, end = 2> (x)
    shape = Concat <axis = 0> (single, single, rows, single)
    spread_mask = Expand(mask, shape)
    q = MatMul(x, wq)
    k = MatMul(x, wk)
    v = MatMul(x, wv)
    y = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v, spread_mask)
}}"""


def padded(mask: str, given: str, least: str = "-3.4028234663852886e+38") -> GraphModule:
    rng = np.random.default_rng(3)
    numbers = {
        name: ", ".join(f"{value:.4f}" for value in rng.normal(0, 0.5, 64)) for name in ("wq", "wk", "wv")
    }
    found = parse(PADDED.format(mask=mask, given=given, least=least, **numbers))
    PassManager(parse_pipeline("infer-shapes"), find_target("cuda")).run(found)
    return found


def packed(before: GraphModule, options: str) -> tuple[GraphModule, ir.Node]:
    after = GraphModule(before.model.clone())
    PassManager(parse_pipeline(f"pack-attention{options},remove-dead"), find_target("cuda")).run(after)
    (attention,) = (node for node in after.graph if node.op_type == "Attention")
    return after, attention


@pytest.mark.parametrize(
    ("mask", "axes", "given", "options"),
    [
        (BY_LENGTHS, "N", [sum(row) for row in FLAGS], ""),
        (BY_LENGTHS, "N", [9, 2, -2, 0], ""),
        (BY_FLAGS, "N,T", FLAGS, "{padding=behind}"),
    ],
)
def test_lengths_go_in_where_they_decide(mask: str, axes: str, given: list[object], options: str) -> None:
    before = padded(mask, axes)
    after, attention = packed(before, options)
    assert attention.domain == "com.microsoft"
    assert [value is not None for value in attention.inputs] == [True] * 4
    x = np.random.default_rng(1).normal(0, 1, (4, TOKENS, WIDTH)).astype(np.float32)
    feeds = {"x": x, "given": np.array(given, np.int64)}
    found, wanted = output(after, feeds), output(before, feeds)  # type: ignore[arg-type]
    counts = feeds["given"].reshape(4, -1).sum(axis=1) > 0
    # Sums of 8 and 5 products of numbers near 1, in another order: some roundings of 2**-24 each.
    np.testing.assert_allclose(found[counts], wanted[counts], atol=1e-5)
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("least", "options"), [("-3.4028234663852886e+38", ""), ("-10000", "{padding=behind}")]
)
def test_what_nobody_said_and_what_does_not_swallow_a_score_goes_in_as_a_mask(
    least: str, options: str
) -> None:
    before = padded(BY_FLAGS, "N,T", least)
    after, attention = packed(before, options)
    assert [value is not None for value in attention.inputs] == [True] * 3 + [False] * 2 + [True]
    x = np.random.default_rng(1).normal(0, 1, (2, TOKENS, WIDTH)).astype(np.float32)
    feeds = {"x": x, "given": np.array([[0, 1, 0, 1, 1], [1, 0, 1, 1, 0]], np.int64)}
    np.testing.assert_allclose(output(after, feeds), output(before, feeds), atol=1e-5)  # type: ignore[arg-type]


def test_lengths_have_kernels_on_cuda_in_half_precision() -> None:
    for mask, axes in ((BY_LENGTHS, "N"), (BY_FLAGS, "N,T")):
        found = padded(mask, axes)
        passes = "lower-precision,infer-shapes,pack-attention{padding=behind},remove-dead"
        PassManager(parse_pipeline(passes), find_target("cuda")).run(found)
        (attention,) = (node for node in found.graph if node.op_type == "Attention")
        assert (attention.domain, attention.inputs[3].dtype) == ("com.microsoft", ir.DataType.INT32)  # type: ignore[union-attr]
        assert list(load_kernels("cuda").missing(found)) == []
