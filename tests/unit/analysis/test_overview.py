"""What is in a model, counted on a graph that is small enough to count by hand."""

import pytest

from onnxq.analysis.overview import QuantizedValue, overview
from onnxq.ir.text import parse

TEXT = """
<ir_version: 10, opset_import: ["" : 21, "com.other" : 1]>
quantized (float[N,2] x, float[2] old) => (float[N,3] y)
<float[2] old = {1, 2}, float s = {0.5}, uint8 z = {128}, int8[2,3] w_q = {1, 2, 3, 4, 5, 6},
 float[3] w_s = {0.1, 0.2, 0.3}, int8[3] w_z = {0, 0, 0}>
{
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    w = DequantizeLinear<axis = 1>(w_q, w_s, w_z)
    m = MatMul(d, w)
    y = com.other.Twist(m)
}
"""


def test_everything_is_counted() -> None:
    found = overview(parse(TEXT))
    assert found.operators == {
        "DequantizeLinear": 2,
        "QuantizeLinear": 1,
        "MatMul": 1,
        "com.other.Twist": 1,
    }
    assert found.inputs == {"x": "float[N,2]"}  # a weight that is listed as an input is none
    assert found.outputs == {"y": "float[N,3]"}
    assert found.opsets == {"ai.onnx": 21, "com.other": 1}
    assert found.parameters == 2 + 1 + 1 + 6 + 3 + 3
    assert found.bytes_by_dtype == {"float": 4 * (2 + 1 + 3), "int8": 6 + 3, "uint8": 1}
    assert found.to_dict()["ir_version"] == 10


def test_encodings_are_read_from_the_graph() -> None:
    activation, weight = overview(parse(TEXT)).quantized
    assert activation == QuantizedValue("x", "activation", "uint8", None, (0.5, 0.5), (128, 128))
    assert (weight.name, weight.kind, weight.dtype, weight.axis) == ("w_q", "weight", "int8", 1)
    assert weight.scales == pytest.approx((0.1, 0.3))  # float32 rounding
    assert weight.zero_points == (0, 0)


def test_unknown_shapes_are_marked() -> None:
    model = parse('<ir_version: 10, opset_import: ["" : 21]>\ng (float[?,4] x) => (float y) { y = Relu(x) }')
    assert overview(model).inputs == {"x": "float[?,4]"}
