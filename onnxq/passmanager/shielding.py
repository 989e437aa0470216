"""Keep in float what ONNX Runtime would quantize by itself.

A layer between DequantizeLinear and QuantizeLinear is for it one that shall run in integers. Where the weight
is a float constant it quantizes that (WeightBiasQuantization): per tensor, to 8 bits, which saturate without
VNNI; and the bias to an int32 that may not hold it. A Sum of the input alone before the layer changes no
number, and stops it; an Identity does not, since it is removed (optimised graphs of onnxruntime 1.32.0).
"""

from __future__ import annotations

import onnx_ir as ir

from onnxq.ir.layers import SELECTING, linear_layers
from onnxq.ir.module import GraphModule, constant_of, is_standard
from onnxq.passmanager.base import PassContext

TRANSPARENT = SELECTING | {
    "Add",
    "BatchNormalization",
    "Clip",
    "Div",
    "Dropout",
    "Identity",
    "Mul",
    "Pad",
    "Relu",
    "Sub",
}
"""What ONNX Runtime may fuse with a layer, or move Q and DQ across, where the other inputs are constants."""


def shield_float_layers(module: GraphModule, ctx: PassContext) -> None:
    """Put a Sum before each layer that has a float weight and stands between Q and DQ.

    ONNX Runtime looks at Conv, ConvTranspose and Gemm; a MatMul may become a Gemm.
    """
    why = "stays in float, where ONNX Runtime would quantize it between Q and DQ"
    for layer in list(linear_layers(module)):
        if _is_dequantized(layer.activation) and _is_quantized(layer.output):
            plain = ctx.edit.insert(
                "Sum",
                [layer.activation],
                f"{layer.activation.name}_float",
                before=layer.node,
                dtype=layer.activation.dtype,
                shape=layer.activation.shape,
                why=why,
            )
            ctx.edit.reroute(layer.activation, plain, readers=[layer.node], why=why)


def _is_dequantized(value: ir.Value | None) -> bool:
    producer = None if value is None else value.producer()
    while producer is not None and not is_standard(producer, "DequantizeLinear"):
        before = _handed_on(producer)
        producer = None if before is None else before.producer()
    return producer is not None


def _is_quantized(value: ir.Value) -> bool:
    readers = list(value.consumers())
    while readers:
        reader = readers.pop()
        if is_standard(reader, "QuantizeLinear"):
            return True
        if _handed_on(reader) is not None:
            readers += reader.outputs[0].consumers()
    return False


def _handed_on(node: ir.Node) -> ir.Value | None:
    """Return the one input that is no constant, if ONNX Runtime may look through the node."""
    computed = [value for value in node.inputs if value is not None and constant_of(value) is None]
    return computed[0] if is_standard(node, *TRANSPARENT) and len(computed) == 1 else None
