"""Scales that do not fit their weight are the model's fault."""

import onnx
import onnx_ir as ir
import pytest

from onnxq.diff.flat import Flat
from onnxq.diff.weights import stored_weights
from onnxq.errors import ModelError


@pytest.mark.parametrize("scale", ["float[2,3] s = {1,1,1,1,1,1}", "float[5] s = {1,1,1,1,1}"])
@pytest.mark.parametrize("blocks", ["", ", block_size: int = 2"])
def test_a_scale_that_does_not_fit_is_refused(scale: str, blocks: str) -> None:
    text = f"""<ir_version: 10, opset_import: ["" : 21]>
    main (float[N,4] x) => (float[N,3] y) <int8[4,3] w = {{1,2,3,4,5,6,7,8,9,10,11,12}}, {scale}> {{
        d = DequantizeLinear <axis: int = 1{blocks}> (w, s)
        y = MatMul(x, d)
    }}"""
    (stored,) = stored_weights(Flat.of(ir.from_proto(onnx.parser.parse_model(text))))
    with pytest.raises(ModelError, match=r"weight 'w': a scale or zero point of shape .* does not fit"):
        _ = stored.real
