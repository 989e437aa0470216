"""Types and shapes of all values, those too that onnx does not infer."""

from __future__ import annotations

import onnx_ir as ir

from onnxq.ir.inference import infer_outputs, infer_types
from onnxq.ir.module import is_standard

ALIKE = ("GroupNormalization", "RMSNormalization", "LayerNormalization", "Mish", "Celu")
"""Their output is like their input, which onnx 1.23 does not infer of all of them."""


def infer(model: ir.Model) -> ir.Model:
    """Infer in place, and return the model; behind a gap of onnx's inference, node by node."""
    infer_types(model)
    for node in model.graph:
        value = node.outputs[0]
        if value.type is not None and value.shape is not None:
            continue
        if is_standard(node, *ALIKE) and node.inputs[0] is not None:
            value.type, value.shape = node.inputs[0].type, node.inputs[0].shape
        else:
            infer_outputs(node, model)
    return model
