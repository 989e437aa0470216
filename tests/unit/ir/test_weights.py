"""Which part of the weights is quantized, and who reads the rest."""

from onnxq.ir.text import parse
from onnxq.ir.weights import weight_share

MODEL = """
<ir_version: 10, opset_import: ["" : 21]>
main (float[N,2] x) => (float[N,2] y)
<int8[2,2] w_q = {1,2,3,4}, float w_scale = {0.5}, int8 w_zero_point = {0}, float[2,2] v = {1,2,3,4},
 float[2] b = {1,2}, int64[2] shape = {-1, 2}>
{
    w = DequantizeLinear(w_q, w_scale, w_zero_point)
    h = MatMul(x, w)
    r = Reshape(h, shape)
    g = MatMul(r, v)
    y = Add(g, b)
}
"""


def test_numbers_are_counted_by_type_and_reader() -> None:
    found = weight_share(parse(MODEL))
    assert (found.quantized, found.wide) == (5, 6)  # four of w_q and its zero point; v and b
    assert found.readers == {"Add": (2, ("y",)), "MatMul": (4, ("g",))}
    assert found.share == 5 / 11


def test_a_model_without_weights_has_none_in_float() -> None:
    text = '<ir_version: 10, opset_import: ["" : 21]> g (float[N] x) => (float[N] y) { y = Relu(x) }'
    assert weight_share(parse(text)).share == 1
