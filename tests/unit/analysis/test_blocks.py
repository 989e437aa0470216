"""Blocks: cut where all numbers pass through one value, each with a layer and what follows it."""

import onnx
import onnx_ir as ir
import pytest

from onnxq.analysis.blocks import Block, find_blocks
from onnxq.ir.module import GraphModule, is_standard, name_of


def _blocks(body: str, *weights: str) -> list[Block]:
    held = ", ".join(f"float[4,4] {name} = {{{', '.join(['1'] * 16)}}}" for name in weights)
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {body.replace("@", held)}')
    module = GraphModule(ir.from_proto(onnx.shape_inference.infer_shapes(proto)))
    return find_blocks(module, lambda node: is_standard(node, "MatMul"))


def _told(blocks: list[Block]) -> list[tuple[str, str, str]]:
    return [
        (
            " ".join(name_of(node.outputs[0]) for node in block.nodes),
            " ".join(map(name_of, block.reads)),
            name_of(block.output),
        )
        for block in blocks
    ]


def test_a_branch_lies_in_a_block_with_its_sum_and_a_chain_is_cut_behind_each_layer() -> None:
    found = _blocks(
        """main (float[N,4] x) => (float[N,4] y) <@> {
            n = Neg(x)  a = MatMul(n, w)  b = Relu(a)
            c = MatMul(b, v)  d = Relu(c)  e = MatMul(d, w)  f = Add(b, e)  g = Tanh(f)
            h = MatMul(g, w)  y = Abs(h) }""",
        "w",
        "v",
    )
    assert _told(found) == [("a b", "n", "b"), ("c d e f g", "b", "g"), ("h y", "g", "y")]


def test_what_depends_on_no_layer_is_read_from_outside() -> None:
    found = _blocks(
        """main (float[N,4] x, float[N,4] mask) => (float[N,4] y) <@> {
            k = Neg(mask)  a = MatMul(x, w)  b = Mul(a, k)  c = MatMul(b, w)  y = Mul(c, k) }""",
        "w",
    )
    assert _told(found) == [("a b", "x k", "b"), ("c y", "b k", "y")]


def test_shapes_are_no_numbers_that_pass() -> None:
    found = _blocks(
        """main (float[N,4] x) => (float[N,4] y) <@> {
            a = MatMul(x, w)  s = Shape(a)  b = Relu(a)  c = MatMul(b, w)  y = Reshape(c, s) }""",
        "w",
    )
    assert _told(found) == [("a b", "x", "b"), ("c y", "b s", "y")]


@pytest.mark.parametrize("end", ["y = Neg(c)  z = Abs(c)", "y = Neg(b)  z = Abs(c)"])
def test_an_end_with_several_outputs_belongs_to_no_block(end: str) -> None:
    found = _blocks(
        f"""main (float[N,4] x) => (float[N,4] y, float[N,4] z) <@> {{
            a = MatMul(x, w)  b = Relu(a)  c = MatMul(b, w)  {end} }}""",
        "w",
    )
    assert _told(found) == [("a b", "x", "b")]
