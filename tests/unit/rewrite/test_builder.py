"""Nodes in one line each: where they stand, what they are called, and what is known of their outputs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxq.errors import PassError, PreconditionError
from onnxq.ir.module import GraphModule, array_of
from onnxq.ir.text import parse
from onnxq.ir.verify import check_operators, verify
from onnxq.rewrite.edit import Editor

TEXT = """<ir_version: 10, opset_import: ["" : 21]>
main (float[N,4] x) => (float[N,2] y)
<float[4,2] w = {1, 2, 3, 4, 5, 6, 7, 8}, float[N,4] h>
{
    [act] h = Relu(x)
    [product] y = MatMul(h, w)
}
"""


@pytest.fixture
def module() -> GraphModule:
    return parse(TEXT)


@pytest.fixture
def edit(module: GraphModule) -> Editor:
    return Editor(module)


def order(module: GraphModule) -> list[str]:
    verify(module)
    check_operators(module)
    return [node.name or "" for node in module.graph]


def known(value: ir.Value) -> tuple[str, str]:
    return str(value.dtype), str(value.shape)


def test_types_shapes_and_names_come_by_themselves(module: GraphModule, edit: Editor) -> None:
    h, w = module.by_name()["h"], module.by_name()["w"]
    with edit.at(module.by_name()["y"], why="test") as op:
        product = op.MatMul(h, w)
        rows = op.Reshape(product, np.array([-1, 2, 1]))
        gelu = op.Gelu(rows, approximate="tanh", name="bent")
    assert [known(one) for one in (product, rows, gelu)] == [
        ("FLOAT", "[N,2]"),
        *[("FLOAT", "[None,2,1]")] * 2,
    ]
    assert order(module) == ["act", "y_matmul", "y_reshape", "bent", "product"]
    assert [one.subject for one in edit.edits] == ["y_matmul", "y_reshape_1", "y_reshape", "bent"]
    assert {one.why for one in edit.edits} == {"test"}


def test_numbers_become_constants_of_the_type_beside_them(module: GraphModule, edit: Editor) -> None:
    x = module.graph.inputs[0]
    half = edit.behind(x, why="test").Mul(x, 0.5)
    (factor,) = [value for value in half.producer().inputs if value is not x]  # type: ignore[union-attr]
    assert array_of(factor).dtype == np.float32
    assert array_of(factor) == 0.5
    assert (half.name, factor.name) == ("x_mul", "x_mul_1")  # type: ignore[union-attr]
    assert order(module) == ["x_mul", "act", "product"]


def test_each_stands_behind_the_one_before(module: GraphModule, edit: Editor) -> None:
    h = module.by_name()["h"]
    op = edit.behind(h, why="test")
    op.Abs(op.Neg(h))
    assert order(module) == ["act", "h_neg", "h_abs", "product"]


def test_absent_inputs_and_attributes_are_left_out(module: GraphModule, edit: Editor) -> None:
    h, low = module.by_name()["h"], edit.constant("low", np.zeros((), np.float32), why="test")
    op = edit.behind(h, why="test")
    assert [len(op.Clip(h, low, None).producer().inputs), len(op.Clip(h, None, low).producer().inputs)] == [
        2,
        3,
    ]  # type: ignore[union-attr]
    assert op.Softmax(h, axis=None).producer().attributes == {}  # type: ignore[union-attr]
    assert module.graph.node("h_clip").inputs[1] is low


def test_other_domains_are_imported_and_take_the_type_of_what_is_like_them(
    module: GraphModule, edit: Editor
) -> None:
    y = module.by_name()["y"]
    op = edit.at(y, why="test")
    odd = op.Odd(module.by_name()["h"], domain="my.domain", size=3)
    assert (odd.dtype, odd.shape) == (None, None)
    like = op("Odd", odd, domain="my.domain", like=y)
    assert known(like) == ("FLOAT", "[N,2]")
    assert module.model.opset_imports["my.domain"] == 1
    edit.replace(y, odd, why="test")  # what stands in the place of a value is of its type
    assert known(odd) == ("FLOAT", "[N,2]")


def test_several_outputs(module: GraphModule, edit: Editor) -> None:
    x = module.graph.inputs[0]
    op = edit.behind(x, why="test")
    integers, scale, _ = op.several("DynamicQuantizeLinear", x, names=["q", "s", "z"])
    assert [known(one) for one in (integers, scale)] == [("UINT8", "[N,4]"), ("FLOAT", "[]")]
    assert order(module) == ["q", "act", "product"]


def test_a_node_alike_reads_something_else(module: GraphModule, edit: Editor) -> None:
    h = module.by_name()["h"]
    op = edit.behind(h, why="test")
    turned = op.Transpose(h, perm=[1, 0])
    twice = op.alike(turned.producer(), turned, name="back")  # type: ignore[arg-type]
    assert known(twice) == ("FLOAT", "[N,4]")


def test_nothing_is_built_where_nothing_stands_any_more(module: GraphModule, edit: Editor) -> None:
    y, h = module.by_name()["y"], module.by_name()["h"]
    with edit.at(y, why="test") as op:
        op.Relu(h)
    with pytest.raises(PassError, match="at 'y': a pass builds a Relu behind the end of its block"):
        op.Relu(h)
    with pytest.raises(PreconditionError, match="value 'x': nothing computes it"):
        edit.at(module.graph.inputs[0], why="test")
    with pytest.raises(AttributeError, match="relu"):
        _ = edit.at(y, why="test").relu
