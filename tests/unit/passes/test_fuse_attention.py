"""The forms of attention that exporters write: each is fused, and computes what it did, in ONNX Runtime."""

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from onnxq.ir.module import GraphModule
from onnxq.ir.text import parse
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.runtime.run import Run
from onnxq.target import find_target

pytest.importorskip("onnxruntime", reason="runs the models")
ROUNDING = 1e-6
"""Values near 1: sums of 4 and of at most 9 terms, an exponential and a quotient, each within 6e-8."""
LOWEST, INFINITE = "-3.4028234663852886e+38", "-inf"

HEAD = """<ir_version: 10, opset_import: ["" : 20]>
main (float[N,T,8] q, float[N,T,8] k, float[N,T,8] v, float[N,T,4] g, int64[N,T] mask, float[1,2,T,T] bias,
      float[N,2,P,4] past_k, float[N,2,P,4] past_v) => (float[N,T,8] y)
<float zero = {0}, int64[2] axes = {1, 2}, int64[4] split = {0, 0, 2, 4}, int64[3] merge = {0, 0, 8},
 int64[4] single = {0, 0, 1, 4}, float half = {0.5}, float root = {0.70710678}, float cap = {2.0},
 int64[1] two = {2},
 int64[5] twice = {1, 1, 2, 1, 1}, int64[1] minus = {-1}, int64[1] size = {4}, int64[4] heads = {0, 2, -1, 4}>
{
    keep = Cast <to = 9> (mask)
    added = Where(keep, zero, least)
    row = Unsqueeze(added, axes)
    kept = Unsqueeze(keep, axes)
    rq = Reshape(q, split)
    rk = Reshape(k, split)
    rv = Reshape(v, split)
    qh = Transpose <perm = [0, 2, 1, 3]> (rq)
    kh = Transpose <perm = [0, 2, 1, 3]> (rk)
    kt = Transpose <perm = [0, 2, 3, 1]> (rk)
    vh = Transpose <perm = [0, 2, 1, 3]> (rv)
"""
SCORES = "s = MatMul(qh, kt)\n d = Mul(s, half)\n"
MASKED = f"{SCORES} m = Add(d, row)\n"
WEIGHTS = "p = Softmax <axis = -1> (m)\n"
GUARDED = "p0 = Softmax <axis = -1> (m)\n nan = IsNaN(p0)\n p = Where(nan, zero, p0)\n"
WEIGHED = "c = MatMul(p, vh)\n"
MERGED = "ct = Transpose <perm = [0, 2, 1, 3]> (c)\n y = Reshape(ct, merge)\n}"
END = WEIGHTS + WEIGHED + MERGED
JOINED = """matrix = Shape <start = 2> (qh)
 folded = Concat <axis = 0> (minus, matrix)
 apart = Shape <end = 2> (qh)
 q3 = Reshape(qh, folded)
 k3 = Reshape(kh, folded)
 v3 = Reshape(vh, folded)
 kt3 = Transpose <perm = [0, 2, 1]> (k3)
 s3 = MatMul(q3, kt3)
 d3 = Mul(s3, half)
"""
RESHAPED_KEYS = """matrix = Shape <start = 2> (kh)
 folded = Concat <axis = 0> (minus, matrix)
 k3 = Reshape(kh, folded)
 k3t = Transpose <perm = [0, 2, 1]> (k3)
 leading = Shape <end = 2> (kh)
 tokens = Shape <start = 2, end = 3> (kh)
 four = Concat <axis = 0> (leading, size, tokens)
 kr = Reshape(k3t, four)
 ks = Mul(kr, root)
 qs = Mul(qh, root)
 s = MatMul(qs, ks)
 m = Add(s, row)
"""
ROTATED = """qr = Sin(qh)
 kr = Cos(kh)
 krt = Transpose <perm = [0, 1, 3, 2]> (kr)
 s = MatMul(qr, krt)
 d = Mul(s, half)
 m = Add(d, row)
"""
GROUPED = """rg = Reshape(g, single)
 gh = Transpose <perm = [0, 2, 1, 3]> (rg)
 g5 = Unsqueeze(gh, two)
 g2 = Expand(g5, twice)
 gk = Reshape(g2, heads)
 gt = Transpose <perm = [0, 1, 3, 2]> (gk)
 s = MatMul(qh, gt)
 d = Mul(s, half)
 m = Add(d, row)
"""
CACHED = """kc = Concat <axis = 2> (past_k, kh)
 vc = Concat <axis = 2> (past_v, vh)
 kct = Transpose <perm = [0, 1, 3, 2]> (kc)
 s = MatMul(qh, kct)
 m = Mul(s, half)
 p = Softmax <axis = -1> (m)
 c = MatMul(p, vc)
"""
FORMS = {
    "heads split before and merged behind": (MASKED + END, LOWEST),
    "the factor first": ("s = MatMul(qh, kt)\n d = Mul(half, s)\n m = Add(row, d)\n" + END, LOWEST),
    "divided": ("s = MatMul(qh, kt)\n d = Div(s, cap)\n m = Add(d, row)\n" + END, LOWEST),
    "roots of the factor on both sides, keys reshaped": (RESHAPED_KEYS + END, LOWEST),
    "rows of no number become 0": (MASKED + GUARDED + WEIGHED + MERGED, INFINITE),
    "rows of no number become 0, finite mask": (MASKED + GUARDED + WEIGHED + MERGED, LOWEST),
    "a mask that chooses": (SCORES + "m = Where(kept, d, least)\n" + END, LOWEST),
    "a mask that replaces": (SCORES + "no = Not(kept)\n m = Where(no, least, d)\n" + END, LOWEST),
    "a bias and a mask": (SCORES + "b = Add(d, bias)\n m = Add(b, row)\n" + END, LOWEST),
    "a bias alone": (SCORES + "m = Add(d, bias)\n" + END, LOWEST),
    "rotated queries and keys": (ROTATED + END, LOWEST),
    "heads repeated for groups": (GROUPED + END, LOWEST),
    "a cache by Concat": (CACHED + MERGED, LOWEST),
    "samples and heads as one axis": (
        JOINED
        + "s4 = Concat <axis = 0> (apart, tokens2)\n d = Reshape(d3, s4)\n m = Add(d, row)\n"
        + "p4 = Softmax <axis = -1> (m)\n f3 = Concat <axis = 0> (minus, tokens2)\n p = Reshape(p4, f3)\n"
        + "c3 = MatMul(p, v3)\n c4 = Concat <axis = 0> (apart, matrix)\n c = Reshape(c3, c4)\n"
        + MERGED,
        LOWEST,
    ),
}
TOKENS_TWICE = " tokens1 = Shape <start = 2, end = 3> (qh)\n tokens2 = Concat <axis = 0> (tokens1, tokens1)\n"
LEFT_ALONE = {
    "a soft cap": (
        "s = MatMul(qh, kt)\n t0 = Div(s, cap)\n t1 = Tanh(t0)\n d = Mul(t1, cap)\n m = Add(d, row)\n" + END,
        "its input is no product of queries and keys",
    ),
    "a mask that is scaled": (
        "s = MatMul(qh, kt)\n d = Add(s, row)\n m = Mul(d, half)\n" + END,
        "its input is no product of queries and keys",
    ),
}


def module(body: str, least: str = LOWEST) -> GraphModule:
    text = HEAD.replace("<float zero", f"<float least = {{{least}}}, float zero") + TOKENS_TWICE + body
    found = parse(text)
    PassManager(parse_pipeline("infer-shapes, remove-dead"), find_target("cpu")).run(found)
    return found


def fuse(found: GraphModule) -> list[str]:
    """Run the pass and return why it left nodes alone."""
    record, *_ = PassManager(parse_pipeline("fuse-attention, remove-dead"), find_target("cpu")).run(found)
    return [remark.reason for remark in record.remarks]


def operators(found: GraphModule) -> set[str]:
    return {node.op_type for node in found.graph}


def feeds_of(found: GraphModule, batch: int, tokens: int, padded: int) -> dict[str, NDArray[np.generic]]:
    """Return random inputs; the last sample's last tokens are padding, or, in a batch, all of its tokens."""
    rng, lengths = np.random.default_rng(batch + tokens), {"N": batch, "T": tokens, "P": 3}
    feeds: dict[str, NDArray[np.generic]] = {}
    for value in found.graph.inputs:
        shape = [size if isinstance(size, int) else lengths[str(size)] for size in value.shape or ()]
        feeds[value.name or ""] = rng.normal(size=shape).astype(np.float32)
    feeds["mask"] = np.ones((batch, tokens), np.int64)
    feeds["mask"][-1, tokens - padded :] = 0
    return feeds


def output(found: GraphModule, feeds: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
    from onnxq.runtime.session import open_session

    y: NDArray[np.float32] = open_session(ir.to_proto(found.model), Run(threads=1)).run(feeds)["y"]
    return y


@pytest.mark.parametrize(("body", "least"), FORMS.values(), ids=FORMS)
def test_a_form_is_fused_and_gives_what_it_did(body: str, least: str) -> None:
    found = module(body, least)
    before = found.clone()
    assert fuse(found) == []
    assert "Attention" in operators(found)
    assert not operators(found) & {"Softmax", "MatMul"}
    for batch, tokens, padded in ((1, 5, 0), (1, 5, 2), (2, 1, 0), (2, 6, 6), (3, 6, 4)):
        feeds = feeds_of(found, batch, tokens, padded)
        np.testing.assert_allclose(output(found, feeds), output(before, feeds), atol=ROUNDING)


@pytest.mark.parametrize(("body", "reason"), LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_what_the_operator_takes_otherwise_is_left_alone(body: str, reason: str) -> None:
    found = module(body)
    assert fuse(found) == [reason]
    assert "Attention" not in operators(found)
