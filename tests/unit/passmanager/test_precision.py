"""What a recipe assigns by name: which entry counts, and what is told where one is wrong."""

import onnx_ir as ir
import pytest

from onnxq.errors import RecipeError
from onnxq.ir.text import parse
from onnxq.passmanager.precision import Precision
from onnxq.rewrite.edit import Editor

GRAPH = """<ir_version: 10, opset_import: ["" : 21]>
main (float[N,4] x) => (float[N,4] y)
<float[4,4] w = {WEIGHT}>
{
    ["enc.0/MatMul"] a = MatMul(x, w)
    [act] r = Relu(a)
    ["enc.1/MatMul"] b = MatMul(r, w)
    ["layer[0]"] y = MatMul(b, w)
}
""".replace("WEIGHT", ", ".join(["1"] * 16))


def node(name: str) -> ir.Node:
    return ir.Node("", "MatMul", [], name=name)


@pytest.mark.parametrize(
    ("entries", "name", "found"),
    [
        ({"a": "int8"}, "a", "int8"),
        ({"a": "int8"}, "b", None),
        ({"enc.*": "int8"}, "enc.0/MatMul", "int8"),
        ({"enc.?/MatMul": "int8"}, "enc.10/MatMul", None),
        ({"*": "int8", "enc.*": "float"}, "enc.0/MatMul", "float"),
        ({"enc.*": "float", "*": "int8"}, "enc.0/MatMul", "int8"),
        ({"enc.0/MatMul": "w4", "*": "int8"}, "enc.0/MatMul", "w4"),
        ({"layer[0]": "w4"}, "layer[0]", "w4"),
        ({"layer[01]": "w4"}, "layer1", "w4"),
    ],
)
def test_a_name_counts_before_patterns_and_the_last_pattern_that_fits_counts(
    entries: dict[str, str], name: str, found: str | None
) -> None:
    precision = Precision(layers=entries, values=entries)
    assert precision.of_layer(node(name)) == found
    assert precision.of_value(ir.Value(name=name)) == found


def test_what_comes_later_counts_before_what_was_there() -> None:
    more = Precision(layers={"b": "float", "*": "w4"})
    found = Precision(layers={"a": "int8", "b": "int8", "c*": "int8"}).with_more(more)
    assert list(found.layers) == ["a", "c*", "b", "*"]
    assert [found.of_layer(node(name)) for name in "abc"] == ["int8", "float", "w4"]


def test_a_node_that_a_pass_builds_in_the_place_of_another_is_called_like_that_too() -> None:
    module = parse(GRAPH)
    old = next(node for node in module.graph if node.name == "enc.0/MatMul")
    new = Editor(module).at(old, why="").MatMul(old.inputs[0], old.inputs[1], name="other")
    newer = Editor(module).at(new, why="").MatMul(old.inputs[0], old.inputs[1], name="another").producer()
    assert newer is not None
    for entries in ({"enc.0/MatMul": "w4"}, {"another": "w4"}, {"*": "int8", "enc*": "w4"}):
        assert Precision(layers=entries).of_layer(newer) == "w4"
    copied = next(node for node in module.clone().graph if node.name == "another")
    assert Precision(layers={"enc.0/MatMul": "w4"}).of_layer(copied) == "w4"


@pytest.mark.parametrize(
    ("precision", "message", "hint"),
    [
        (
            Precision(layers={"enc*": "float", "enc.2/MatMul": "float"}),
            "precision.layers: 'enc.2/MatMul': no layer is called so, and it fits none as a pattern",
            "did you mean 'enc.1/MatMul'?",
        ),
        (
            Precision(layers={"act": "float"}),
            "precision.layers: 'act': no layer is called so, and it fits none as a pattern",
            "choose from: enc.0/MatMul, enc.1/MatMul, layer[0]",
        ),
        (
            Precision(values={"w": "int8"}),
            "precision.values: 'w': no value is called so, and it fits none as a pattern",
            "choose from: a, b, r, x, y",
        ),
    ],
)
def test_an_entry_that_fits_nothing_is_told_with_what_is_near(
    precision: Precision, message: str, hint: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        precision.require_matches(parse(GRAPH))
    assert (str(caught.value), caught.value.hint) == (message, hint)


def test_a_precision_that_no_pass_gives_is_told_with_those_that_passes_give() -> None:
    precision = Precision(layers={"a": "float", "b": "int8"}, values={"c": "uin8"})
    message = "'c': no pass of the pipeline gives values the precision 'uin8'"
    with pytest.raises(RecipeError, match=message) as caught:
        precision.require_given(["int8"], ["uint8", "int8"])
    assert caught.value.hint == "did you mean 'uint8'?"
