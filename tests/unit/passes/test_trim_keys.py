"""trim-keys against what it replaces, in ONNX Runtime: with padding of every kind, and with none."""

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
TOKENS = 9
MASKS = {
    "padded behind": [[1] * 4 + [0] * 5],
    "padded in front": [[0] * 4 + [1] * 5],
    "two lengths": [[1] * 2 + [0] * 7, [1] * 6 + [0] * 3],
    "nothing real": [[0] * 9],
    "one sample without anything real": [[1] * 3 + [0] * 6, [0] * 9],
    "all real": [[1] * 9],
    "holes": [[1, 0, 1, 0, 1, 0, 0, 0, 0]],
}
ADDITIVE = """
    keep = Cast <to = 9> (mask)
    additive = Where(keep, nothing, least)
    row = Unsqueeze(additive, axes)"""
BOOLEAN = """
    keep = Cast <to = 9> (mask)
    row = Unsqueeze(keep, axes)"""
TEXT = """<ir_version: 11, opset_import: ["" : 23]>
main (float[N,T,8] x, float[N,T] mask) => (float[N,T,8] y)
<float nothing = {{0}}, float least = {{{least}}}, int64[2] axes = {{1, 2}}, int64[1] one = {{1}}>
{{{made}
    tokens = Shape <start = 1, end = 2> (x)
    shape = Concat <axis = 0> (one, one, tokens, one)
    rows = Expand(row, shape)
    y = Attention <q_num_heads = 2, kv_num_heads = 2{more}> (x, x, x, rows)
}}"""


def module(made: str = ADDITIVE, least: str = "-3.4028234663852886e+38", more: str = "") -> GraphModule:
    found = parse(TEXT.format(made=made, least=least, more=more))
    PassManager(parse_pipeline("infer-shapes"), find_target("cpu")).run(found)
    return found


def trim(found: GraphModule) -> list[str]:
    """Run the pass and return why it left nodes alone."""
    (record,) = PassManager(parse_pipeline("trim-keys"), find_target("cpu")).run(found)
    return [remark.reason for remark in record.remarks]


def output(found: GraphModule, feeds: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    from onnxq.runtime.session import open_session

    y: NDArray[np.float32] = open_session(ir.to_proto(found.model), Run(threads=1)).run(feeds)["y"]
    return y


def trimmed_keys(found: GraphModule) -> bool:
    return any(node.op_type == "Slice" for node in found.graph)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize(
    ("made", "least"), [(ADDITIVE, "-3.4028234663852886e+38"), (ADDITIVE, "-1e30"), (BOOLEAN, "0")]
)
def test_the_numbers_stay(made: str, least: str, mask: list[list[int]]) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 30, (len(mask), TOKENS, 8)).astype(np.float32)
    feeds = {"x": x, "mask": np.array(mask, np.float32)}
    before, after = module(made, least), module(made, least)
    assert not trim(after)
    assert trimmed_keys(after)
    wanted = output(before, feeds)
    # at most 9 weights: two roundings each, and those of sums that may be taken in another order
    np.testing.assert_allclose(output(after, feeds), wanted, rtol=0, atol=11 * 2**-23 * np.abs(x).max())


def test_a_row_that_infinity_rules_out_stays_undefined() -> None:
    feeds = {
        "x": np.ones((2, TOKENS, 8), np.float32),
        "mask": np.array([[0] * 9, [1] * 3 + [0] * 6], np.float32),
    }
    before, after = module(least="-inf"), module(least="-inf")
    trim(after)
    assert trimmed_keys(after)
    np.testing.assert_array_equal(output(after, feeds), output(before, feeds))


@pytest.mark.parametrize(
    ("least", "more", "reason"),
    [
        ("-10000", "", "may not swallow a score"),
        ("-3.4028234663852886e+38", ", is_causal = 1", "counts its keys itself"),
    ],
)
def test_what_is_left_alone(least: str, more: str, reason: str) -> None:
    found = module(least=least, more=more)
    (told,) = trim(found)
    assert reason in told
    assert not trimmed_keys(found)


def test_a_mask_that_shapes_alone_decide_is_left_alone() -> None:
    found = module(
        made="""
    shown = Shape(mask)
    ones = ConstantOfShape(shown)
    keep = Cast <to = 9> (ones)
    additive = Where(keep, nothing, least)
    row = Unsqueeze(additive, axes)"""
    )
    (told,) = trim(found)
    assert "no input decides" in told
