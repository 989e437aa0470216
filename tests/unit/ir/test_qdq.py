"""Reading encodings back from nodes, in every form that a graph may have them in."""

import numpy as np
import pytest

from onnxq.ir.qdq.read import dequantized, read_dequantize, read_quantize
from onnxq.ir.text import parse
from onnxq.quant.encodings import Encoding, encoding_of

HEAD = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>'

PER_TENSOR = encoding_of(np.array(0.5), np.array(3), "uint8")
FORMS = {
    "per tensor": ("float s = {0.5}, uint8 z = {3}", "", "s, z", PER_TENSOR),
    "one scale in a vector": ("float[1] s = {0.5}, uint8[1] z = {3}", "<axis = 0>", "s, z", PER_TENSOR),
    "no zero point": ("float s = {0.5}", "", "s", encoding_of(np.array(0.5), np.array(0), "uint8")),
    "per channel, axis 1 by default": (
        "float[2] s = {0.5, 2}, int8[2] z = {0, 1}",
        "",
        "s, z",
        encoding_of(np.array([0.5, 2]), np.array([0, 1]), "int8", 1),
    ),
    "in blocks": (
        "float[2,2] s = {0.5, 2, 1, 4}, int8[2,2] z = {0, 1, 2, 3}",
        "<axis = 0, block_size = 2>",
        "s, z",
        encoding_of(np.array([[0.5, 2], [1, 4]]), np.array([[0, 1], [2, 3]]), "int8", 0, 2),
    ),
    "computed": ("float s0 = {0.5}", "", "s", None),
    "no zero point that is known": ("float s = {0.5}, uint8 z0 = {3}", "", "s, z", None),
    "nobody's grid": ("float s = {0}, uint8 z = {3}", "", "s, z", None),
}


@pytest.mark.parametrize("domain", ["", "com.microsoft."])
@pytest.mark.parametrize("form", FORMS)
def test_both_operators_tell_their_encoding(form: str, domain: str) -> None:
    weights, attributes, grid, expected = FORMS[form]
    computed = "".join(f"{name} = Identity({name}0)\n" for name in "sz" if f" {name}0 =" in weights)
    module = parse(
        f"{HEAD}\nmain (float[4,2] x) => (float[4,2] y)\n<{weights}>\n{{\n{computed}"
        f"q = {domain}QuantizeLinear{attributes}(x, {grid})\n"
        f"y = {domain}DequantizeLinear{attributes}(q, {grid})\n}}\n"
    )
    quantize, dequantize = list(module.graph)[-2:]
    made, read = read_quantize(quantize), read_dequantize(dequantize)
    assert made is not None
    assert read is not None
    assert made.encoding == read.encoding == expected
    assert made.stored is read.stored is quantize.outputs[0]
    assert dequantized(module.value("y")) == read
    assert read_dequantize(quantize) is read_quantize(dequantize) is dequantized(module.value("x")) is None


@pytest.mark.parametrize(("code", "expected"), [("", "uint8"), ("3", "int8"), ("17", "float8e4m3fn")])
def test_a_quantizer_without_a_zero_point_declares_its_type(code: str, expected: str) -> None:
    declared = f"<output_dtype = {code}>" if code else ""
    graph = f"main (float[4,2] x) => (y)\n<float s = {{0.5}}>\n{{\ny = QuantizeLinear{declared}(x, s)\n}}\n"
    found = read_quantize(next(iter(parse(f"{HEAD}\n{graph}").graph)))
    assert found is not None
    assert found.dtype == expected
    assert isinstance(found.encoding, Encoding)


def test_other_nodes_are_none() -> None:
    module = parse(f"{HEAD}\nmain (float[4,2] x) => (float[4,2] y)\n{{\ny = Relu(x)\n}}\n")
    node = next(iter(module.graph))
    assert read_quantize(node) is read_dequantize(node) is dequantized(None) is None
