"""The module and the small questions that passes ask about values and nodes."""

import numpy as np
import onnx_ir as ir
import pytest

from onnxq.errors import PassError, PreconditionError
from onnxq.ir.module import (
    GraphModule,
    array_of,
    attribute,
    constant_of,
    input_of,
    is_float,
    is_standard,
    name_of,
    rank_of,
    sole_reader,
)
from onnxq.ir.text import parse
from onnxq.quant.encodings import affine_encoding, symmetric_encoding
from onnxq.rewrite.edit import Editor

TEXT = """<ir_version: 10, opset_import: ["" : 21, "my.domain" : 1]>
main (float[N,2] x, float[2] fed) => (float[N,2] y, float[N,2] a)
<float[2] w = {1, 2}, float[2] fed = {3, 4}>
{
    [first] a = Add(x, w)
    [second] b = Mul(a, fed)
    [third] c = my.domain.Relu(b)
    [fourth] y = Clip(c, , w)
}
"""


@pytest.fixture
def module() -> GraphModule:
    return parse(TEXT)


def test_values_are_inputs_then_weights_then_what_nodes_give(module: GraphModule) -> None:
    assert [value.name for value in module.values()] == ["x", "fed", "w", "fed", "a", "b", "c", "y"]
    assert module.opset == 21
    assert name_of(module.value("b")) == "b"
    assert module.value("nothing") is None


def test_a_constant_is_an_initializer_that_nobody_can_override(module: GraphModule) -> None:
    np.testing.assert_array_equal(array_of(module.value("w")), [1, 2])
    for name in ("x", "fed", "a", "nothing"):
        assert constant_of(module.value(name)) is None
        with pytest.raises(PreconditionError, match="it is no constant"):
            array_of(module.value(name))


def test_what_is_unknown_or_absent_is_none(module: GraphModule) -> None:
    *_, clip = module.graph
    assert name_of(input_of(clip, 1)) == ""
    assert input_of(clip, 5) is None
    assert name_of(input_of(clip, 2)) == "w"
    assert (rank_of(module.value("x")), rank_of(module.value("c")), rank_of(None)) == (2, None, None)
    assert is_float(module.value("x"))
    assert not is_float(module.value("c"))
    assert attribute(clip, "none", 7) == 7


def test_only_the_standard_domain_is_standard(module: GraphModule) -> None:
    assert [is_standard(node, "Add", "Relu") for node in module.graph] == [True, False, False, False]


def test_a_sole_reader_reads_once_and_in_the_same_graph(module: GraphModule) -> None:
    first, second, *_ = module.graph
    assert sole_reader(second.outputs[0]) is second.outputs[0].consumers()[0]
    assert sole_reader(first.outputs[0]) is None, "it is an output too"
    assert sole_reader(array_value(module, "w")) is None, "two nodes read it"
    branch = parse(
        """<ir_version: 10, opset_import: ["" : 21]>
        main (float[N] x, bool on) => (float[N] y)
        {
            h = Relu(x)
            y = If (on) <
                then_branch = yes () => (float[N] t) { t = Tanh(h) },
                else_branch = no () => (float[N] f) { f = Relu(x) }
            >
        }"""
    )
    assert sole_reader(array_value(branch, "h")) is None


def array_value(module: GraphModule, name: str) -> ir.Value:
    value = module.value(name)
    assert value is not None
    return value


def test_a_decision_is_for_all_readers_or_for_some(module: GraphModule) -> None:
    first, second, *_ = module.graph
    encoding = symmetric_encoding(1.27)
    edit = Editor(module)
    edit.encode(array_value(module, "w"), encoding, readers=[first], why="test")
    edit.encode(array_value(module, "a"), encoding, why="test")
    assert module.reads_encoded(first, module.value("w"))
    assert not module.reads_encoded(second, module.value("w"))
    assert module.reads_encoded(second, module.value("a"))
    assert not module.reads_encoded(second, module.value("fed"))
    assert not module.reads_encoded(second, None)


def test_names_alike_are_numbered_from_the_first_that_is_free() -> None:
    module = parse(
        '<ir_version: 10, opset_import: ["" : 21]> main (float[2] x) => (float[2] y) { y = Relu(x) }'
    )
    edit, node = Editor(module), next(iter(module.graph))
    made = [edit.constant("c", np.ones(2, np.float32), why="test").name for _ in range(3)]
    fused = edit.at(node, why="test").Abs(module.graph.inputs[0], name="c")
    assert [*made, fused.name] == ["c", "c_1", "c_2", "c_3"]
    edit.replace(node.outputs[0], fused, why="test")
    assert edit.constant("c", np.ones(2, np.float32), why="test").name == "c_3"


def test_a_node_that_reads_a_value_twice_is_rerouted_as_a_whole() -> None:
    module = parse(
        '<ir_version: 10, opset_import: ["" : 21]> main (float[2] x) => (float[2] y) '
        "{ h = Abs(x) y = Mul(h, h) }"
    )
    edit, (first, second) = Editor(module), list(module.graph)
    other = edit.constant("k", np.ones(2, np.float32), why="test")
    edit.reroute(first.outputs[0], other, readers=[second, second], why="test")
    assert list(second.inputs) == [other, other]
    assert not first.outputs[0].uses()


def test_a_view_from_before_a_replacement_is_refused() -> None:
    module = parse("""<ir_version: 10, opset_import: ["" : 21]>
main (float[N] x) => (float[N] z)
{
    [first] y = Relu(x)
    [second] z = Relu(y)
}""")
    edit, (first, second) = Editor(module), list(module.graph)
    stale = first.outputs[0]
    edit.replace(stale, edit.at(first, why="a test").Neg(first.inputs[0], name="y"), why="a test")
    for change in (
        lambda: edit.at(second, why="a test").Neg(stale),
        lambda: edit.rewire(second, 0, stale, why="a test"),
        lambda: edit.encode(stale, affine_encoding(0.0, 1.0), why="a test"),
    ):
        with pytest.raises(PassError, match="value 'y': the pass put another value in its place"):
            change()
    assert [name_of(value) for value in second.inputs] == ["y"]  # the new one, found by asking again
