"""Fold a BatchNormalization into the layer before it.

Before: ``h = Conv(x, w, b); y = BatchNormalization(h, gamma, beta, mean, var)``. After: ``y = Conv(x, w',
b')`` with ``w' = w * gamma / sqrt(var + epsilon)`` for each output channel and ``b' = beta + (b - mean) *
gamma / sqrt(var + epsilon)``.

Source: Nagel et al., 2021, arXiv:2106.08295, section 2.3.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.analysis.layers import Layer, layer_of
from onnxq.ir.module import LINEAR, GraphModule, array_of, attribute, constant_of, is_standard, sole_reader
from onnxq.passmanager.base import Effect, Pass, PassContext

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold where the layer's output has no other reader and all statistics are constant."""

    name: ClassVar[str] = "fold-batch-norm"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Compute in float64, so that folding rounds once."""
        for norm in list(module.graph):
            layer = _layer_before(norm) if is_standard(norm, "BatchNormalization") else None
            if layer is None:
                continue
            reason = _reason(layer, norm)
            folded = _folded(layer, norm) if reason is None else None
            if folded is None:
                ctx.skip(norm, reason or "float32 cannot hold the folded weight or bias")
                continue
            _fold(layer, norm, *folded, ctx)


def _layer_before(norm: ir.Node) -> Layer | None:
    node = None if norm.inputs[0] is None else norm.inputs[0].producer()
    found = layer_of(node) if node is not None and is_standard(node, *LINEAR) else None
    return found if isinstance(found, Layer) else None


def _reason(layer: Layer, norm: ir.Node) -> str | None:
    if sole_reader(layer.output) is not norm:
        return "it is not the only reader of the layer before it"
    if layer.node.op_type == "MatMul":
        return "a MatMul has no bias to fold it into"
    if layer.node.op_type == "ConvTranspose" and attribute(layer.node, "group", 1) != 1:
        return "a grouped ConvTranspose shares weights between output channels"
    if layer.node.op_type == "Gemm" and (
        attribute(layer.node, "alpha", 1.0),
        attribute(layer.node, "beta", 1.0),
    ) != (1, 1):
        return "the Gemm scales its terms"
    if attribute(norm, "training_mode", 0) or len(norm.outputs) > 1:
        return "it takes the statistics of each batch"  # before operator set 14, five outputs say so
    if not attribute(norm, "spatial", 1):
        return "its statistics are those of single elements"
    if any(constant_of(value) is None for value in norm.inputs[1:]):
        return "its statistics are not constant"
    if layer.bias is not None and constant_of(layer.bias) is None:
        return "the layer's bias is computed at run time"
    return None


def _folded(layer: Layer, norm: ir.Node) -> tuple[Floats, Floats] | None:
    """Return the weight and the bias that do both; None where one of them would not be finite."""
    gamma, beta, mean, variance = (_array(value) for value in norm.inputs[1:])
    weight, bias = _array(layer.weight), np.zeros(1) if layer.bias is None else _array(layer.bias)
    shape = [-1 if axis == layer.channel_axis else 1 for axis in range(weight.ndim)]
    with np.errstate(all="ignore"):
        factor = gamma / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
        folded = weight * factor.reshape(shape), beta + (bias - mean) * factor
        rounded = folded[0].astype(np.float32), folded[1].astype(np.float32)
    return rounded if all(np.isfinite(part).all() for part in rounded) else None


def _fold(layer: Layer, norm: ir.Node, weight: Floats, bias: Floats, ctx: PassContext) -> None:
    why = "the BatchNormalization behind it is folded in"
    ctx.edit.rewire(layer.node, 1, ctx.edit.constant(f"{layer.weight.name}_folded", weight, why=why), why=why)
    ctx.edit.rewire(layer.node, 2, ctx.edit.constant(f"{layer.output.name}_bias", bias, why=why), why=why)
    ctx.edit.forget(layer.output, why=why)
    ctx.edit.replace(norm.outputs[0], layer.output, why=why)
    ctx.edit.remove(norm, why=why)


def _array(value: ir.Value | None) -> NDArray[np.float64]:
    return array_of(value).astype(np.float64)
