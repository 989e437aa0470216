"""What a value's fingerprint depends on, and what not."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxq.ir.fingerprint import fingerprints, futures
from onnxq.ir.module import name_of
from onnxq.ir.text import parse

MODEL = """<ir_version: 10, opset_import: ["" : 21]>
main (float[N,4] x) => (float[N,4] y) <float[4,4] w = {WEIGHT}> {
    h = MatMul(x, w)
    y = Relu(h)
}
"""


def _text(first: float = 1.0) -> str:
    return MODEL.replace("WEIGHT", ", ".join(map(str, [first, *range(15)])))


def _prints(text: str) -> dict[str, str]:
    return {name_of(value): print_ for value, print_ in fingerprints(parse(text).model).items()}


def test_names_do_not_count() -> None:
    before = _prints(_text())
    after = _prints(_text().replace("h", "g").replace("float[4,4] w", "float[4,4] v").replace("x, w", "x, v"))
    assert (before["h"], before["w"]) == (after["g"], after["v"])


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("Relu(h)", "Sigmoid(h)", {"x", "w", "h"}),
        ("Relu(h)", "LeakyRelu<alpha = 0.5>(h)", {"x", "w", "h"}),
        ("MatMul(x, w)", "MatMul(w, x)", {"x", "w"}),
        ("x", "z", {"w"}),  # another input holds other data
        ('"" : 21', '"" : 20', {"x", "w", "h", "y"}),  # neither operator changed between these sets
        ('"" : 21', '"" : 12', {"x", "w"}),  # MatMul-13 and Relu-13 are later than this one
    ],
)
def test_what_is_computed_counts(old: str, new: str, same: set[str]) -> None:
    before, after = _prints(_text()), _prints(_text().replace(old, new))
    assert {name for name in before if after.get(name) == before[name]} == same


def test_a_weights_bytes_count() -> None:
    before, after = _prints(_text()), _prints(_text(2.0))
    assert {name for name in before if after[name] == before[name]} == {"x"}


def test_two_nodes_that_compute_the_same_have_one_fingerprint() -> None:
    found = _prints(_text().replace("y = Relu(h)", "g = MatMul(x, w) y = Add(h, g)"))
    assert found["h"] == found["g"]


def _branching(bias: str) -> dict[str, str]:
    """Return the fingerprints of a graph whose If reads ``bias`` from the graph around it."""
    branch = onnx.parser.parse_graph(f"body () => (float[4] z) {{ z = Add(row, {bias}) }}")
    graph = onnx.parser.parse_graph("main (bool c, float[4] row) => (float[4] y) { }")
    for number, name in enumerate(("a", "b")):
        graph.initializer.append(onnx.numpy_helper.from_array(np.full(4, number, np.float32), name))
    graph.node.append(onnx.helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch))
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    return {name_of(value): print_ for value, print_ in fingerprints(ir.from_proto(model)).items()}


def test_what_subgraphs_read_from_outside_counts() -> None:
    assert _branching("a")["y"] == _branching("a")["y"]
    assert _branching("a")["y"] != _branching("b")["y"]


def _futures(text: str, how: str = "squared") -> dict[str, str]:
    module = parse(text)
    ends = dict.fromkeys(module.graph.outputs, how)
    return {name_of(value): print_ for value, print_ in futures(module.model, ends).items()}


def test_a_future_is_all_that_gradients_depend_on() -> None:
    before = _futures(_text())
    assert before == _futures(_text())
    assert not set(before.values()) & set(_futures(_text(), "absolute").values())
    # another operator behind h, and another reader of x whose result nobody differentiates
    assert not set(before.values()) & set(_futures(_text().replace("Relu(h)", "Sigmoid(h)")).values())
    renamed = _futures(_text().replace("h", "g"))
    assert (renamed["x"], renamed["g"]) == (before["x"], before["h"])


def test_twins_have_one_future_only_if_they_are_read_alike() -> None:
    alike = _futures(_text().replace("y = Relu(h)", "g = MatMul(x, w) a = Relu(h) b = Relu(g) y = Add(a, b)"))
    assert alike["a"] != alike["b"], "one is the first input of the sum"
    same = _futures(_text().replace("y = Relu(h)", "a = Relu(h) b = Abs(h) y = Add(a, b)"))
    assert len(set(same.values())) == len(same)
    both = _futures(_text().replace("y = Relu(h)", "g = MatMul(x, w) y = Relu(h) z = Relu(g)"))
    assert both["h"] != both["g"], "nobody differentiates z"
