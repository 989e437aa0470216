"""Signatures: which types a node's inputs and outputs may have."""

from onnxq.ir.schema import signature_of
from onnxq.ir.text import parse

TEXT = """
<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1, "other" : 1]>
main (float[N,4] x, float[N,4] z) => (float[M,4] y, float[N,4] u, float[N,2] p)
<uint8[2,1,16] w = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16},
 float[2] s = {1, 2}>
{
    [joined] y = Concat <axis: int = 0> (x, z, x)
    [foreign] u = other.Thing(x)
    [blocks] p = com.microsoft.MatMulNBits <K: int = 4, N: int = 2, bits: int = 4, block_size: int = 32>
        (x, w, s)
}
"""


def test_a_variadic_input_stands_for_many() -> None:
    joined, foreign, blocks = parse(TEXT).graph
    found = signature_of(joined, 21)
    assert found is not None
    assert [one.parameter for one in found.inputs] == ["T", "T", "T"]
    assert found.since == 13
    assert "tensor(float16)" in found.inputs[2].allowed
    assert signature_of(foreign, 21) is None
    stored = signature_of(blocks, 21)
    assert stored is not None
    assert [one.parameter for one in stored.inputs[:3]] == ["T1", "T2", "T1"]
