"""Write Gemm as MatMul and Sum, the form whose input ONNX Runtime can quantize at run time.

Before: ``y = Gemm<transB = 1>(x, w, b)``. After: ``h = MatMul(x, w'); y = Sum(h, b)`` with ``w'`` the
transposed weight.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxq.analysis.layers import Layer, linear_layers
from onnxq.ir.module import GraphModule, attribute, constant_of
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.quant.encodings import Encoding

WHY = "MatMul's input can be quantized at run time"


@dataclass(frozen=True)
class UnfuseGemm(Pass):
    """Split each Gemm with a constant weight; alpha, beta and the transposition go into the constants."""

    name: ClassVar[str] = "unfuse-gemm"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave a Gemm alone where beta scales a bias that is computed at run time."""
        for layer in list(linear_layers(module)):
            if layer.node.op_type != "Gemm":
                continue
            encoding = module.encoding_at(layer.node, 1)
            reason = _reason(layer, encoding)
            if reason is None:
                _unfuse(layer, encoding, ctx)
            else:
                ctx.skip(layer.node, reason)


def _reason(layer: Layer, encoding: Encoding | None) -> str | None:
    computed = layer.bias is not None and constant_of(layer.bias) is None
    if computed and attribute(layer.node, "beta", 1.0) != 1:
        return "beta scales a bias that is computed at run time"
    if encoding is not None and attribute(layer.node, "alpha", 1.0) != 1:
        return "alpha scales a weight that is encoded already"
    if encoding is not None and encoding.block_size is not None and attribute(layer.node, "transB", 0):
        return "it reads a weight transposed that is encoded in blocks"
    return None


def _unfuse(layer: Layer, encoding: Encoding | None, ctx: PassContext) -> None:
    node, old = layer.node, layer.weight
    weight = _scaled(old, attribute(node, "alpha", 1.0), bool(attribute(node, "transB", 0)), ctx)
    if encoding is None or weight is old:
        _take_apart(layer, weight, ctx)
    else:
        ctx.edit.forget(old, readers=[node], why=WHY)
        _take_apart(layer, weight, ctx)
        axis = None if encoding.axis is None else 1 - encoding.axis
        ctx.edit.encode(weight, replace(encoding, axis=axis), readers=weight.consumers(), why="transposed")


def _take_apart(layer: Layer, weight: ir.Value, ctx: PassContext) -> None:
    node, bias = layer.node, layer.bias
    if bias is None:
        ctx.edit.retype(node, "MatMul", inputs=[layer.activation, weight], why=WHY)
        return
    name, added = f"{layer.output.name}_product", _scaled(bias, attribute(node, "beta", 1.0), False, ctx)
    product = ctx.edit.at(node, why=WHY).MatMul(layer.activation, weight, name=name, like=layer.output)
    ctx.edit.retype(node, "Sum", inputs=[product, added], why=WHY)


def _scaled(value: ir.Value, factor: float, transposed: bool, ctx: PassContext) -> ir.Value:
    """Return ``factor * value``, transposed if asked; the value itself where that changes nothing."""
    array = constant_of(value)
    if array is None or (factor == 1 and not transposed):
        return value
    name = f"{value.name}_transposed" if factor == 1 else f"{value.name}_scaled"
    scaled = np.float32(factor) * (array.T if transposed else array)
    return ctx.edit.constant(name, scaled, why="Gemm's factors move into it")
