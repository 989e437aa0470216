"""Rounding that is spelled out: overflow and lost digits show on the CPU, and names and types stay."""

import numpy as np
import onnx_ir as ir
import pytest

from onnxq.ir.module import GraphModule
from onnxq.ir.rounding import spell_out_rounding
from onnxq.ir.text import parse
from onnxq.testing.laws import run_model

pytest.importorskip("onnxruntime", reason="runs models")

TEXT = """
<ir_version: 10, opset_import: ["" : 21]>
main (float[N] x) => (float[N] y, float16[N] h)
{
    [down] d = Cast <to: int = 10> (x)
    [double] h = Add(d, d)
    [half] g = Sub(h, d)
    [up] y = Cast <to: int = 1> (g)
}
"""


def module() -> GraphModule:
    from onnx_ir.passes.common import ShapeInferencePass

    found = parse(TEXT)
    ShapeInferencePass()(found.model)
    return found


def test_every_result_is_rounded() -> None:
    x = np.array([40000, 1 + 2**-10, 1], np.float32)
    after = run_model(GraphModule(spell_out_rounding(module().model)), {"x": x})
    assert after["h"].tolist() == [np.inf, 2 + 2**-9, 2]
    assert after["y"].tolist() == [np.inf, 1 + 2**-10, 1]


def test_the_model_itself_stays_as_it_is() -> None:
    before = module()
    text = str(ir.to_proto(before.model))
    spelled = spell_out_rounding(before.model)
    assert str(ir.to_proto(before.model)) == text
    assert [(value.name, value.dtype) for value in spelled.graph.outputs] == [
        (value.name, value.dtype) for value in before.graph.outputs
    ]
