"""Quantize the inputs of MatMuls at run time, where no data says what their ranges are.

Before: ``y = MatMul(x, w)`` with ``w`` encoded. After: ``q, s, z = DynamicQuantizeLinear(x); d =
DequantizeLinear(q, s, z); y = MatMul(d, w)``, which ONNX Runtime fuses into DynamicQuantizeMatMul. The
range is that of the whole batch, so that a result may change with what else is in the batch, padding
included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxq.analysis.layers import Layer, linear_layers
from onnxq.ir.module import GraphModule
from onnxq.passmanager.base import Effect, Pass, PassContext

WHY = "no data says what its range is"


@dataclass(frozen=True)
class QuantizeDynamically(Pass):
    """Quantize each MatMul input once for all its readers; other layers keep float inputs and weights."""

    name: ClassVar[str] = "quantize-dynamically"
    effect: ClassVar[Effect] = Effect.QUANTIZING

    @property
    def makes_integers(self) -> bool:
        """Every MatMul with an encoded weight reads uint8."""
        return True

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Withdraw the weight's encoding where only a MatMul would profit from it."""
        quantized: dict[ir.Value, ir.Value] = {}
        for layer in list(linear_layers(module)):
            encoding = module.encoding_at(layer.node, 1)
            if encoding is None or encoding.block_size is not None:
                continue  # what reads a weight in blocks multiplies floats
            if layer.node.op_type != "MatMul":
                ctx.edit.forget(layer.weight, readers=[layer.node], why="its input stays in float")
                ctx.skip(layer.node, "without data only MatMul gains from integers: give --data")
                continue
            if layer.activation not in quantized:
                quantized[layer.activation] = _quantize(layer, ctx)
            ctx.edit.rewire(layer.node, 0, quantized[layer.activation], why=WHY)


def _quantize(layer: Layer, ctx: PassContext) -> ir.Value:
    value, op = layer.activation, ctx.edit.at(layer.node, why=WHY)
    names = [f"{value.name}_{part}" for part in ("q", "scale", "zero_point")]
    parts = op.several("DynamicQuantizeLinear", value, names=names)
    return op.DequantizeLinear(*parts, name=f"{value.name}_dq", like=value)
