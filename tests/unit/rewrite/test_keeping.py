"""What is known and decided of values stays with them, whatever is done to the graph around them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from onnxq.errors import ModelError, PassError, PreconditionError, VerifyError
from onnxq.ir.module import GraphModule
from onnxq.ir.text import parse, render
from onnxq.ir.verify import verify
from onnxq.quant.encodings import symmetric_encoding
from onnxq.rewrite.edit import Editor

TEXT = """# fact x: count=8 low=-1.0 high=1.0
# encode w: scale=0.5 zero_point=0 dtype=int8 readers=product
# encode x: scale=0.25 zero_point=3 readers=product
<ir_version: 10, opset_import: ["" : 21]>
main (float[N,2] x) => (float[N,2] y, float[N,2] z)
<float[2,2] w = {1, 2, 3, 4}, float[2] b = {1, 2}>
{
    [product] h = MatMul(x, w)
    [act] y = Relu(h)
    [other] z = Add(x, b)
}
"""


@pytest.fixture
def module() -> GraphModule:
    return parse(TEXT)


@pytest.fixture
def edit(module: GraphModule) -> Editor:
    return Editor(module)


def node(module: GraphModule, name: str) -> ir.Node:
    return next(node for node in module.graph if node.name == name)


def value(module: GraphModule, name: str) -> ir.Value:
    return module.by_name()[name]


def decided(module: GraphModule) -> dict[str, list[str] | None]:
    """Return who reads each encoded value so; None is everyone."""
    return {
        one.value: None if one.readers is None else sorted(one.readers) for one in module.named_decisions()
    }


BEFORE: dict[str, list[str] | None] = {"w": ["product"], "x": ["product"]}


def test_a_clone_knows_and_decides_for_itself(module: GraphModule, edit: Editor) -> None:
    copy = module.clone()
    edit.forget(value(module, "w"), why="test")
    assert decided(copy) == BEFORE
    assert copy.facts().keys() == {"x"}
    assert decided(module) == {"x": ["product"]}
    assert decided(copy.undecided()) == {}
    assert decided(copy) == BEFORE


def test_a_rename_leaves_nothing_behind(module: GraphModule) -> None:
    value(module, "x").name, node(module, "product").name = "fed", "layer"
    assert decided(module) == {"fed": ["layer"], "w": ["layer"]}
    assert module.facts().keys() == {"fed"}


def test_another_operator_of_the_same_inputs_keeps_them(module: GraphModule, edit: Editor) -> None:
    edit.retype(node(module, "product"), "Gemm", why="test")
    edit.settle()
    assert decided(module) == BEFORE


def test_nodes_that_stand_in_the_place_of_one_read_as_it_did(module: GraphModule, edit: Editor) -> None:
    """One node in the place of another, or two that read the same value; who read it before is as it was."""
    product = node(module, "product")
    with edit.at(product, why="test") as op:
        total = op.Add(*(op.MatMul(*product.inputs, name=name) for name in ("p", "q")))
    edit.replace(product.outputs[0], total, why="test")
    edit.remove(product, why="test")
    edit.settle()
    assert decided(module) == {"w": ["p", "q"], "x": ["p", "q"]}
    assert not module.reads_encoded(node(module, "other"), value(module, "x"))
    assert module.encoding_at(node(module, "p"), 0) == module.encoding_at(node(module, "q"), 0)


def test_a_node_in_front_of_another_takes_over_what_that_reads_no_more(
    module: GraphModule, edit: Editor
) -> None:
    product = node(module, "product")
    inner = edit.at(product, why="test").MatMul(*product.inputs, name="inner")
    edit.retype(product, "Add", inputs=[inner, value(module, "b")], why="test")
    edit.settle()
    assert decided(module) == {"w": ["inner"], "x": ["inner"]}


def test_inputs_in_another_order_keep_their_encodings(module: GraphModule, edit: Editor) -> None:
    product = node(module, "product")
    edit.retype(product, "MatMul", inputs=[value(module, "w"), value(module, "x")], why="test")
    edit.settle()
    assert decided(module) == BEFORE
    found = module.encoding_at(product, 1)
    assert found is not None
    assert found.scale == np.float32(0.25)


def drop(module: GraphModule, edit: Editor) -> None:
    product = node(module, "product")
    edit.replace(product.outputs[0], value(module, "x"), why="test")
    edit.remove(product, why="test")


def leave_dead(module: GraphModule, edit: Editor) -> None:
    edit.rewire(node(module, "act"), 0, value(module, "x"), why="test")


def read_other_numbers(module: GraphModule, edit: Editor) -> None:
    doubled = edit.constant("doubled", np.full((2, 2), 2, np.float32), why="test")
    edit.rewire(node(module, "product"), 1, doubled, why="test")


@pytest.mark.parametrize("change", [drop, leave_dead, read_other_numbers])
def test_what_a_change_loses_is_its_error(
    module: GraphModule, edit: Editor, change: Callable[[GraphModule, Editor], None]
) -> None:
    change(module, edit)
    with pytest.raises(PassError, match=r"value '.': the pass loses .* node 'product'") as caught:
        edit.settle()
    assert caught.value.hint == "put it before the passes that encode"


@pytest.mark.parametrize("change", [drop, leave_dead, read_other_numbers])
def test_what_was_given_up_before_is_no_error(
    module: GraphModule, edit: Editor, change: Callable[[GraphModule, Editor], None]
) -> None:
    edit.forget(value(module, "w"), why="test")
    edit.forget(value(module, "x"), readers=[node(module, "product")], why="test")
    change(module, edit)
    edit.settle()
    assert decided(module) == {}


def test_readers_of_the_same_numbers_elsewhere_keep_what_they_have(module: GraphModule, edit: Editor) -> None:
    x, product, other = value(module, "x"), node(module, "product"), node(module, "other")
    same = edit.at(product, why="test").Identity(x, name="same")
    edit.reroute(x, same, readers=[product, other], why="test")
    edit.settle()
    assert decided(module) == {"same": ["product"], "w": ["product"]}
    assert module.facts().keys() == {"same", "x"}


def test_what_everyone_reads_encoded_goes_to_what_stands_in_its_place(
    module: GraphModule, edit: Editor
) -> None:
    h = value(module, "h")
    edit.encode(h, symmetric_encoding(1.0), why="test")
    edit.settle()
    negated = edit.behind(h, why="test").Neg(h)
    edit.replace(h, negated, why="test")
    edit.settle()
    assert decided(module) == {**BEFORE, "h": None}
    assert module.encoding_of(negated) is not None


def test_what_one_group_reads_encoded_is_not_pushed_on_another(module: GraphModule, edit: Editor) -> None:
    """Where readers move to a value that others read in floats, they alone read it encoded."""
    h = value(module, "h")
    edit.encode(h, symmetric_encoding(1.0), why="test")
    edit.reroute(h, value(module, "z"), why="test")
    assert decided(module) == {**BEFORE, "z": ["act"]}


def test_an_output_cannot_become_encoded_for_a_stranger() -> None:
    module = parse("""# encode y: scale=0.5 zero_point=0
<ir_version: 10, opset_import: ["" : 21]>
main (float[2] x) => (float[2] y, float[2] z) { y = Identity(x) z = Relu(x) }""")
    edit = Editor(module)
    with pytest.raises(PassError, match="an output is to be encoded that others read as it is"):
        edit.reroute(value(module, "y"), value(module, "x"), why="test")


def test_numbers_that_are_encoded_may_not_be_rescaled(module: GraphModule, edit: Editor) -> None:
    with pytest.raises(PreconditionError, match="value 'x': its numbers may not change"):
        edit.rescale(value(module, "x"), np.ones(2), np.zeros(2), axis=-1, why="test")


def test_two_readers_may_have_two_encodings(module: GraphModule, edit: Editor) -> None:
    wide, x = symmetric_encoding(2.0), value(module, "x")
    edit.encode(x, wide, readers=[node(module, "other")], why="test")
    assert module.encoding_at(node(module, "other"), 0) == wide
    assert decided(module)["x"] is not None
    assert len(module.decisions(x)) == 2
    assert parse(render(module)).named_decisions() == module.named_decisions()
    edit.encode(x, wide, why="test")
    assert decided(module) == {"w": ["product"], "x": None}


def test_only_readers_can_be_decided_for(module: GraphModule, edit: Editor) -> None:
    with pytest.raises(PassError, match="value 'w': node 'act' does not read it"):
        edit.encode(value(module, "w"), symmetric_encoding(1.0), readers=[node(module, "act")], why="test")


def through_a_file(model: ir.Model) -> ir.Model:
    return ir.from_proto(ir.to_proto(model))


def test_a_library_that_writes_the_model_anew_loses_nothing(module: GraphModule, edit: Editor) -> None:
    edit.encode(value(module, "z"), symmetric_encoding(1.0), why="test")
    before = render(module)
    edit.apply(through_a_file, why="test")
    edit.settle()
    assert render(module) == before


def test_a_library_that_takes_a_reader_away_is_an_error(module: GraphModule, edit: Editor) -> None:
    def bypass(model: ir.Model) -> ir.Model:
        relu = next(node for node in model.graph if node.name == "act")
        relu.replace_input_with(0, model.graph.inputs[0])
        return model

    with pytest.raises(PassError, match=r"value '.': the pass loses the encoding"):
        edit.apply(bypass, why="test")  # "product" is dead now

    def remove(model: ir.Model) -> ir.Model:
        bypass(model).graph.remove(next(iter(model.graph)), safe=True)
        return model

    module = parse(TEXT)
    with pytest.raises(PassError, match=r"value '.': the pass loses the encoding"):
        Editor(module).apply(remove, why="test")


def test_what_is_decided_for_the_dead_may_go() -> None:
    module = parse(TEXT.replace("act] y = Relu(h)", "act] y = Relu(x)"))
    edit = Editor(module)
    edit.remove(node(module, "product"), why="test")
    edit.settle()
    assert decided(module) == {}


def test_inputs_and_outputs_are_changed_with_a_reason(module: GraphModule, edit: Editor) -> None:
    added = edit.add_input("x", ir.DataType.BOOL, ir.Shape([2]), why="test")
    edit.set_outputs([value(module, "z"), value(module, "h")], why="test")
    assert [one.name for one in module.graph.inputs] == ["x", "x_1"]
    assert added.dtype == ir.DataType.BOOL
    assert [one.name for one in module.graph.outputs] == ["z", "h"]
    assert [(one.action, one.subject, one.why) for one in edit.edits] == [
        ("add input", "x_1", "test"),
        ("outputs", "z, h", "test"),
    ]


def test_nobody_reads_facts_that_were_not_measured(module: GraphModule) -> None:
    assert module.measured(value(module, "x")).high == 1.0
    assert module.facts_of(value(module, "y")) is None
    with pytest.raises(PreconditionError, match="value 'y': nothing was measured of it"):
        module.measured(value(module, "y"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("# encode q: scale=1.0 zero_point=0", "# encode q: the graph has no such value"),
        ("# fact q: low=0.0 high=1.0", "# fact q: the graph has no such value"),
        ("# encode b: scale=1.0 zero_point=0 readers=act", "# encode b: node 'act' does not read it"),
    ],
)
def test_text_about_what_is_not_there_is_refused(line: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        parse(f"{line}\n{TEXT}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("# encode h: scale=1.0 zero_point=0 dtype=int32", "'h': nothing quantizes to int32 at run time"),
        ("# encode k: scale=1.0 zero_point=0", "'k': the value holds no floats, but int64"),
        ("# encode b: scale=[1.0, 2.0, 3.0] zero_point=[0, 0, 0] axis=0", "'b': its number of channels"),
    ],
)
def test_what_nothing_can_realise_is_found(change: str, message: str) -> None:
    module = parse(f"{change}\n{TEXT}".replace("float[2] b", "int64[1] k = {1}, float[2] b"))
    with pytest.raises(VerifyError, match=message):
        verify(module)
