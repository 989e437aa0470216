"""How many rows products with weights in blocks have, as far as it is known."""

import pytest

from onnxq.analysis.rows import most_rows, sizes_of
from onnxq.ir.text import parse

TEXT = """<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
main (float16[N,T,32] x, float16[2,32] fixed, float16[M,32] other, uint8[16,1,16] w4, float16[16] s,
      uint8[16,1,32] w8) => (float16[N,T,16] a, float16[2,16] b, float16[M,16] c)
{
    a = com.microsoft.MatMulNBits <K = 32, N = 16, bits = 4, block_size = 32> (x, w4, s)
    b = com.microsoft.MatMulNBits <K = 32, N = 16, bits = 8, block_size = 32> (fixed, w8, s)
    c = com.microsoft.MatMulNBits <K = 32, N = 16, bits = 8, block_size = 32> (other, w8, s)
}"""


@pytest.mark.parametrize(
    ("shapes", "rows"),
    [
        ({}, {"8 bits": 2}),
        ({"x": (3, 5, 32)}, {"4 bits": 15, "8 bits": 2}),
        ({"x": (1, 1, 32), "other": (7, 32), "unknown": (9,)}, {"4 bits": 1, "8 bits": 7}),
    ],
)
def test_rows_are_what_is_fed_or_fixed(shapes: dict[str, tuple[int, ...]], rows: dict[str, int]) -> None:
    module = parse(TEXT)
    assert most_rows(module, sizes_of(module, shapes)) == rows
