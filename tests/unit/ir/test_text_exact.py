"""What is printed reads back as the same model: names, types, attributes and weights of every kind."""

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from onnx import TensorProto, helper

from onnxq.ir.module import GraphModule
from onnxq.ir.text import parse, render

NATIVE = tuple("?bhiqBHIQefdFD")
NARROW = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4", "int2", "uint2", "float4_e2m1fn")
ODD = (
    'a"b',
    "a\nb",
    "a\\b",
    "ü b",
    "1a",
    "a:b/c.d-e",
    "#a",
    "if",
    "<x>",
    "a =  {",
    "a>\n\nb  ",
    "\u2028",
    "\x85",
)

names = st.one_of(
    st.sampled_from(ODD), st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1)
)
texts = st.one_of(names, st.just(""))
floats = st.one_of(st.floats(width=32), st.sampled_from([-0.0, 1e-45, float("nan"), float("-inf")]))
integers = st.integers(-(2**63), 2**63 - 1)


@st.composite
def tensors(draw: st.DrawFn) -> ir.Tensor:
    shape = draw(array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3))
    if draw(st.booleans()):
        return ir.Tensor(draw(arrays(np.dtype(draw(st.sampled_from(NATIVE))), shape)))
    narrow = getattr(ml_dtypes, draw(st.sampled_from(NARROW)))
    return ir.Tensor(draw(arrays(np.int8, shape, elements=st.integers(-2, 1))).astype(narrow))


@st.composite
def strings(draw: st.DrawFn) -> ir.TensorProtocol:
    shape = draw(array_shapes(min_dims=0, max_dims=1, min_side=0, max_side=3))
    size = int(np.prod(shape))
    values = [text.encode() for text in draw(st.lists(texts, min_size=size, max_size=size))]
    return ir.StringTensor(values, shape=ir.Shape(shape))


@st.composite
def subgraphs(draw: st.DrawFn) -> onnx.GraphProto:
    inner = helper.make_node("Op", ["in", "c"], ["i"], name="in", domain="own")
    inner.attribute.extend(draw(st.lists(attributes(nested=True), max_size=1)))
    weight = ir.to_proto(draw(tensors()))
    weight.name = "c"
    output = helper.make_tensor_value_info("i", TensorProto.FLOAT, ["N"])
    return helper.make_graph([inner], "inner", [], [output], [weight])


@st.composite
def attributes(draw: st.DrawFn, nested: bool = False) -> onnx.AttributeProto:
    kinds: dict[Any, Any] = {
        onnx.AttributeProto.FLOAT: floats,
        onnx.AttributeProto.INT: integers,
        onnx.AttributeProto.STRING: texts,
        onnx.AttributeProto.FLOATS: st.lists(floats, max_size=3),
        onnx.AttributeProto.INTS: st.lists(integers, max_size=3),
        onnx.AttributeProto.STRINGS: st.lists(texts, max_size=3),
        onnx.AttributeProto.TENSOR: st.one_of(tensors(), strings()).map(ir.to_proto),
        onnx.AttributeProto.TENSORS: st.lists(tensors().map(ir.to_proto), max_size=2),
    }
    if not nested:
        kinds[onnx.AttributeProto.GRAPH] = subgraphs()
        kinds[onnx.AttributeProto.GRAPHS] = st.lists(subgraphs(), max_size=2)
    kind = draw(st.sampled_from(sorted(kinds)))
    return helper.make_attribute(draw(st.one_of(st.just("alpha"), names)), draw(kinds[kind]), attr_type=kind)


@st.composite
def types(draw: st.DrawFn) -> onnx.TypeProto:
    sizes = st.one_of(st.none(), st.integers(0, 5), names)
    shape = draw(st.one_of(st.none(), st.lists(sizes, max_size=3)))
    made = helper.make_tensor_type_proto(draw(st.sampled_from([1, 7, 9, 10, 16, 17, 22])), shape)
    wrap = draw(st.sampled_from([None, helper.make_sequence_type_proto, helper.make_optional_type_proto]))
    return made if wrap is None else wrap(made)


@st.composite
def functions(draw: st.DrawFn) -> onnx.FunctionProto:
    part = helper.make_node("Op", ["a"], ["b"], name="part", domain="own")
    part.attribute.extend(draw(st.lists(attributes(nested=True), max_size=1)))
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
    preset = [helper.make_attribute("beta", 0.25)] if draw(st.booleans()) else []
    return helper.make_function("own", draw(names), ["a"], ["b"], [part], imports, ["alpha"], preset)


@st.composite
def models(draw: st.DrawFn) -> onnx.ModelProto:
    inner, first, last = draw(st.lists(names, min_size=3, max_size=3, unique=True))
    node = helper.make_node(
        draw(st.one_of(st.just("Op"), names)), ["in", "w"], [inner], name=first, domain="own"
    )
    node.attribute.extend(draw(st.lists(attributes(), max_size=2, unique_by=lambda one: one.name)))
    after = helper.make_node("Op", [inner, ""], ["out"], name=last, domain="own")
    weight = ir.to_proto(draw(st.one_of(tensors(), strings())))
    weight.name = "w"
    values = [helper.make_value_info(name, draw(types())) for name in ("in", "out", inner)]
    graph = helper.make_graph(
        [node, after], draw(names), values[:1], values[1:2], [weight], value_info=values[2:]
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
    made = helper.make_model(graph, opset_imports=imports, functions=draw(st.lists(functions(), max_size=1)))
    made.ir_version = 10
    helper.set_model_props(made, draw(st.dictionaries(names, texts, max_size=2)))
    return made


def plain(message: Any) -> Any:
    """Return a message as plain values in which NaN equals NaN and tensors are compared by their numbers."""
    if isinstance(message, onnx.TensorProto):
        tensor = ir.serde.deserialize_tensor(message)
        numbers = np.asarray(tensor.numpy())
        shown = tensor.dtype == ir.DataType.STRING or tensor.dtype.is_floating_point()
        content = repr(numbers.tolist()) if shown else tensor.tobytes()  # one NaN is as good as another
        return (message.data_type, tuple(message.dims), content)
    if isinstance(message, onnx.GraphProto):
        weights = sorted((one.name, plain(one)) for one in message.initializer)
        inner = sorted(
            (one.name, str(one.type)) for one in message.value_info if one.name not in dict(weights)
        )
        ends = [(one.name, str(one.type)) for one in (*message.input, *message.output)]
        return [weights, inner, ends, [plain(node) for node in message.node]]
    if isinstance(message, onnx.AttributeProto):
        single = [getattr(message, name) for name in ("t", "g") if message.HasField(name)]
        parts = [plain(one) for one in (*single, *message.tensors, *message.graphs)]
        rest = (
            message.i,
            message.s,
            *message.ints,
            *message.strings,
            *map(repr, (message.f, *message.floats)),
        )
        return [message.name, message.type, message.ref_attr_name, rest, parts]
    if isinstance(message, onnx.NodeProto):
        attributes = [plain(one) for one in sorted(message.attribute, key=lambda one: one.name)]
        return [message.domain, message.op_type, message.name, *message.input, *message.output, attributes]
    if isinstance(message, onnx.FunctionProto):
        own = [message.domain, message.name, *message.input, *message.output, *message.attribute]
        return [own, *map(plain, (*message.attribute_proto, *message.node))]
    assert isinstance(message, onnx.ModelProto)
    imports = sorted((one.domain, one.version) for one in message.opset_import)
    metadata = sorted((one.key, one.value) for one in message.metadata_props)
    return [imports, metadata, message.graph.name, plain(message.graph), *map(plain, message.functions)]


@settings(max_examples=80, deadline=None, derandomize=True, report_multiple_bugs=False)
@given(models())
def test_a_printed_model_reads_back_as_the_same_model(proto: onnx.ModelProto) -> None:
    module = GraphModule(ir.from_proto(proto))
    text = render(module)
    back = parse(text)
    assert plain(ir.to_proto(back.model)) == plain(ir.to_proto(module.model)), text
    assert render(back) == text
