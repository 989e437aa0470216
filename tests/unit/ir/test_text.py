"""Modules as text, there and back."""

from __future__ import annotations

import math
from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from onnx.backend.test.case.node import collect_testcases

from onnxq.errors import ModelError, VerifyError
from onnxq.ir.digest import graph_digest
from onnxq.ir.knowledge import NamedDecision
from onnxq.ir.module import GraphModule, name_of
from onnxq.ir.text import parse, render
from onnxq.ir.verify import verify
from onnxq.quant.encodings import Encoding, block_encoding, encoding_of, symmetric_encoding
from onnxq.quant.facts import facts_of
from onnxq.quant.statistics import Average, ChannelRange, Histogram, Mean, Range, Rows
from onnxq.rewrite.edit import Editor

TEXT = """# weight k: dtype=int4
# weight h: dtype=float16
# fact x: count=4 low=-1.0 high=2.5 average=[-0.5, 2.0] axis=-1 channel_low=[-1.0, nan] \
channel_high=[1.0, inf] mean=[0.25, -0.5] rows=[[1.0, 2.0], [3.0, 4.0]] \
gram=[[10.0, 14.0, 4.0], [14.0, 20.0, 6.0], [4.0, 6.0, 2.0]] histogram={5: 1, 16256: 3}
# encode w: scale=[0.5, 1e-30] zero_point=[0, 1] dtype=int8 axis=0
# encode x: scale=0.5 zero_point=0 dtype=uint8 readers="a b/1"+act
<ir_version: 10, opset_import: ["" : 21]>
main (float[N,2] x) => (float[N,2] y)
   <float[2] w = {0.1,1e-30}, int8[3] k = {1,-2,3}, float[2] h = {0.099975586,2}, float[N,2] "a b/0">
{
   [act] "a b/0" = Relu (x)
   ["a b/1"] y = Sum ("a b/0", w, x)
}
"""


def module_with(**arrays_by_name: np.ndarray) -> GraphModule:
    """Return ``y = Relu(x)`` with these weights beside it."""
    module = parse(
        '<ir_version: 10, opset_import: ["" : 21]> main (float[N] x) => (float[N] y) { y = Relu(x) }'
    )
    for name, array in arrays_by_name.items():
        Editor(module).constant(name, array, why="test")
    return module


def encode(module: GraphModule, encoding: Encoding) -> None:
    """Decide the encoding of the weight ``w``, for everyone."""
    Editor(module).encode(module.graph.initializers["w"], encoding, why="test")


def test_canonical_text_is_printed_as_it_was_read() -> None:
    module = parse(TEXT)
    assert render(module) == TEXT
    assert module.graph.initializers["k"].dtype == ir.DataType.INT4
    assert module.graph.initializers["h"].dtype == ir.DataType.FLOAT16
    assert [one.readers for one in module.named_decisions() if one.value == "x"] == [{"a b/1", "act"}]
    assert math.isinf(module.facts()["x"].known(ChannelRange).high[1])


def test_every_operator_example_of_onnx_comes_back_exactly() -> None:
    """All types, attributes, subgraphs and functions that onnx has examples of; every 12th of 1884."""
    with np.errstate(all="ignore"):
        cases = collect_testcases(None)[::12]
    assert len(cases) > 150
    for case in cases:
        module = GraphModule(ir.from_proto(case.model))
        for node in module.graph.all_nodes():
            node.name = node.name or name_of(node.outputs[0])
        back = parse(render(module))
        assert graph_digest(back) == graph_digest(module), case.name
        assert render(back) == render(module), case.name


DTYPES = [np.float32, np.float64, np.int8, np.uint8, np.int32, np.int64, np.bool_, np.float16]


@settings(deadline=None)
@given(st.data())
def test_weights_come_back_exactly(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(DTYPES))
    floats = {"allow_nan": False} if np.dtype(dtype).kind == "f" else None
    array = data.draw(arrays(dtype, array_shapes(min_dims=0, max_side=4, min_side=0), elements=floats))
    back = parse(render(module_with(w=array))).graph.initializers["w"].const_value
    assert back is not None
    assert back.numpy().dtype == array.dtype
    np.testing.assert_array_equal(back.numpy(), array)
    np.testing.assert_array_equal(
        np.signbit(np.asarray(back.numpy(), float)), np.signbit(array.astype(float))
    )


@pytest.mark.parametrize("dtype", [ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.bfloat16, np.float16])
def test_narrow_weights_are_printed_readably_and_come_back_exactly(dtype: type) -> None:
    array = np.arange(7).astype(dtype)
    text = render(module_with(w=array))
    assert "{0,1,2,3,4,5,6}" in text
    back = parse(text).graph.initializers["w"].const_value
    assert back is not None
    assert back.numpy().dtype == array.dtype
    assert back.numpy().tolist() == array.tolist()


@given(
    st.text(min_size=1).filter(lambda text: text.isprintable()),
    st.floats(width=32, min_value=2.0**-126, allow_infinity=False),
    st.integers(0, 255),
)
def test_decisions_come_back_exactly(reader: str, scale: float, zero_point: int) -> None:
    module = module_with()
    (node,) = module.graph
    node.name = reader
    encoding = encoding_of(np.float32(scale), np.int32(zero_point))  # type: ignore[arg-type]
    Editor(module).encode(module.graph.inputs[0], encoding, readers=[node], why="test")
    assert parse(render(module)).named_decisions() == module.named_decisions()
    assert module.named_decisions() == [NamedDecision("x", encoding, frozenset({reader}))]


def test_limited_decisions_come_back_exactly() -> None:
    module = module_with(w=np.ones((2, 3), np.float32))
    encoding = symmetric_encoding(np.ones(2), axis=0, limit=63)
    encode(module, encoding)
    text = render(module)
    assert " axis=0 limit=63\n" in text
    assert parse(text).named_decisions() == module.named_decisions()
    assert graph_digest(parse(text)) == graph_digest(module)
    encode(module, replace(encoding, limit=None))
    assert graph_digest(parse(text)) != graph_digest(module)


def test_a_narrow_weight_that_is_an_input_or_an_output_keeps_its_type() -> None:
    module = module_with(fed=np.ones(2, np.float16), shown=np.ones(2, np.float16))
    module.graph.inputs.append(module.graph.initializers["fed"])
    module.graph.outputs.append(module.graph.initializers["shown"])
    assert graph_digest(parse(render(module))) == graph_digest(module)


@pytest.mark.parametrize("axis", [0, 1])
def test_decisions_on_blocks_come_back_exactly(axis: int) -> None:
    weight = np.random.default_rng(0).normal(size=(70, 66)).astype(np.float32)
    module = module_with(w=weight)
    encode(module, block_encoding(weight, "uint4", axis, 32))
    text = render(module)
    assert f" axis={axis} block=32\n" in text
    assert parse(text).named_decisions() == module.named_decisions()
    assert graph_digest(parse(text)) == graph_digest(module)
    encode(module, block_encoding(weight, "uint4", axis, 34))
    assert graph_digest(parse(text)) != graph_digest(module)


def test_blocks_that_do_not_fit_their_value_are_refused() -> None:
    module = module_with(w=np.ones((70, 2), np.float32))
    encode(module, block_encoding(np.ones((64, 2), np.float32), "uint4", 0, 32))
    with pytest.raises(VerifyError, match="encoding of 'w': its number of blocks is not the value's"):
        verify(module)


def test_facts_come_back_exactly() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(5, 3)).astype(np.float32)
    low, high = rows.min(axis=0), rows.max(axis=0)
    whole = (Range(float(low.min()), float(high.max())), Average(0.1, 0.7), Histogram.of(rows))
    facts = facts_of(15, *whole, ChannelRange(low, high), Mean(rows.mean(axis=0)), Rows(rows))
    module = module_with()
    module.learn({"x": facts.and_also(facts_of(15, whole[0], Mean(np.ones(5, np.float32)), axis=-2))})
    back = parse(render(module)).facts()["x"]
    assert (back.count, back.low, back.high) == (15, facts.low, facts.high)
    assert back.axes == [-2, -1]
    for place, part in module.facts()["x"].parts.items():
        for name, number in vars(part).items():
            np.testing.assert_array_equal(getattr(back.parts[place], name), number)


def test_large_weights_are_elided_by_digest_and_read_as_stand_ins() -> None:
    weight = np.linspace(-1, 3, 1000, dtype=np.float32).reshape(10, 100)
    module = module_with(w=weight, q=np.arange(-100, 100, dtype=np.int8), small=weight[:2, :3])
    encode(module, symmetric_encoding(3.0))
    text = render(module, elide_above=64)
    assert len(text) < 1000
    assert "# weight w: dtype=float low=-1.0 high=3.0 sha256=" in text
    once, again = parse(text), parse(text)
    assert graph_digest(once) == graph_digest(again)
    for name, dtype, low, high in (("w", np.float32, -1, 3), ("q", np.int8, -100, 99)):
        stand_in = once.graph.initializers[name].const_value
        assert stand_in is not None
        numbers = stand_in.numpy()
        assert numbers.dtype == dtype
        assert low <= numbers.min() <= numbers.max() <= high
    assert once.graph.initializers["w"].shape == (10, 100)
    np.testing.assert_array_equal(once.graph.initializers["small"].const_value, weight[:2, :3])
    assert once.named_decisions() == module.named_decisions()
    assert graph_digest(module) == graph_digest(module_with_same(module))


def module_with_same(module: GraphModule) -> GraphModule:
    """Return a copy by way of the full text; rendering must not have changed the module."""
    return parse(render(module))


def test_large_facts_are_left_out_with_large_weights() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    module = module_with()
    module.learn({"x": facts_of(100, Range(-3.0, 3.0), Rows(rows), Histogram.of(rows))})
    facts = parse(render(module, elide_above=64)).facts()["x"]
    assert (facts.low, facts.get(Rows), facts.get(Histogram)) == (-3.0, None, None)


def test_types_of_inner_values_can_be_hidden() -> None:
    text = render(parse(TEXT), types=False)
    assert 'float[N,2] "a b/0"' not in text
    assert "float[2] w = {0.1,1e-30}" in text


def test_a_node_without_a_name_is_called_like_its_output() -> None:
    module = module_with()
    assert [node.name for node in module.graph] == ["y"]


def test_rendering_leaves_the_module_alone() -> None:
    module = parse(TEXT)
    before = graph_digest(module)
    render(module, elide_above=0)
    assert graph_digest(module) == before


def test_a_weight_listed_as_input_can_be_elided() -> None:
    text = TEXT.replace("(float[N,2] x)", "(float[N,2] x, float[2] w)")
    back = parse(render(parse(text), elide_above=1))
    assert back.graph.initializers["w"].is_graph_input()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "y = Sum",
            "y = = Mul",
            r"this is not ONNX text: \[ParseError at position \(line: 11 column: 18\)\]",
        ),
        ("scale=0.5 ", "", "line 5: 'scale' is missing, in: # encode x: zero_point=0"),
        ("scale=0.5", "scale=-0.5", "line 5: every scale must be finite and positive, in: # encode x"),
        ("dtype=uint8", "dtype=uint7", "line 5: unknown dtype 'uint7'"),
        ("zero_point=0 ", "zero_point ", "line 5: expected field=value, found 'zero_point dtype"),
        ("low=-1.0 ", "", "line 3: 'low' is missing, in: # fact x"),
        ("# weight k", "# weight nobody", "# weight nobody: the graph has no such weight"),
        ("dtype=int4", "dtype=int4 sha256=xyz", "line 1: 'xyz' is not a hexadecimal digest, in: # weight k"),
        ("dtype=int4", "dtype=int5", "line 1: unknown dtype 'int5', in: # weight k"),
    ],
)
def test_what_does_not_parse_is_named_with_its_line(old: str, new: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        parse(TEXT.replace(old, new, 1))


def test_the_text_is_onnx_text() -> None:
    """The comment lines apart, onnx's own parser reads it."""
    lines = [line for line in TEXT.splitlines() if not line.startswith("#")]
    assert onnx.parser.parse_model("\n".join(lines)).graph.name == "main"


def test_what_nothing_computes_is_named() -> None:
    text = TEXT.replace('("a b/0", w, x)', '("a b/0", nothing, x)')
    with pytest.raises(ModelError, match="node 'a b/1': it reads 'nothing', which nothing computes"):
        parse(text)
