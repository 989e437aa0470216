"""What is said otherwise than onnx wants it, and what stays as it is."""

import onnx
from onnx import helper

from onnxq.ir.mending import mend

BODY = "main (float[N] x) => (float[N] y) { a = Relu(x) b = Neg(a) y = Add(a, b) }"


def parsed(body: str, head: str = '<ir_version: 8, opset_import: ["" : 17]>') -> onnx.ModelProto:
    return onnx.parser.parse_model(f"{head} {body}")


def order(model: onnx.ModelProto) -> list[str]:
    return [name for node in model.graph.node for name in node.output]


def test_a_model_as_onnx_wants_it_stays() -> None:
    model = parsed(BODY)
    before = model.SerializeToString()
    assert not mend(model)
    assert model.SerializeToString() == before


def test_nodes_move_no_further_than_they_have_to() -> None:
    model = parsed(BODY)
    for first, then in (([2, 0, 1], "aby"), ([1, 2, 0], "aby"), ([2, 1, 0], "aby")):
        copy = parsed(BODY)
        del copy.graph.node[:]
        copy.graph.node.extend(model.graph.node[place] for place in first)
        assert mend(copy)
        assert "".join(order(copy)) == then


def test_a_graph_inside_a_node_reads_too() -> None:
    branch = "{0} () => (float[N] {0}_out) {{ {0}_out = Neg(a) }}"
    body = (
        "main (float[N] x, bool c) => (float[N] y) { y = If (c) <then_branch = "
        f"{branch.format('t')}, else_branch = {branch.format('e')}> a = Relu(x) }}"
    )
    model = parsed(body)
    assert mend(model)
    assert order(model) == ["a", "y"]


def test_a_circle_stays_for_the_checker() -> None:
    model = parsed("main (float[N] x) => (float[N] y) { a = Add(x, y) y = Relu(a) }")
    assert not mend(model)


def test_what_is_not_imported_is_in_the_newest_form_of_its_operators() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Softmax", ["a"], ["y"])]
    model = parsed(
        "main (float[N] x) => (float[N] y) { y = own.Op(x) }", '<ir_version: 8, opset_import: ["own" : 1]>'
    )
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert mend(model)
    assert {one.domain: one.version for one in model.opset_import} == {"own": 1, "": 14}, (
        "Relu-14, Softmax-13"
    )
