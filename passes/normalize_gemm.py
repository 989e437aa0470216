"""Give every Gemm with constant weight and bias the plain form ``x W + b`` that integer kernels know.

Before: ``y = Gemm<alpha = 0.5, beta = 2.0>(x, w, b)``, ``b`` of shape (1, N). After: ``y = Gemm(x, w', b')``
with ``w' = alpha * w`` and ``b' = beta * b`` of shape (N,).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxq.analysis.layers import Layer, linear_layers
from onnxq.ir.module import GraphModule, array_of, attribute, constant_of
from onnxq.passmanager.base import Effect, Pass, PassContext

WHY = "integer kernels know no factors and take one bias for each channel"


@dataclass(frozen=True)
class NormalizeGemm(Pass):
    """Move alpha and beta into the constants, and spread the bias over the channels."""

    name: ClassVar[str] = "normalize-gemm"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave a Gemm alone whose bias is computed at run time or differs from row to row."""
        for layer in list(linear_layers(module)):
            if layer.node.op_type != "Gemm" or _is_plain(layer):
                continue
            reason = _reason(layer)
            if reason is None:
                _normalize(layer, ctx)
            else:
                ctx.skip(layer.node, reason)


def _is_plain(layer: Layer) -> bool:
    factors = attribute(layer.node, "alpha", 1.0), attribute(layer.node, "beta", 1.0)
    shape = () if layer.bias is None or layer.bias.shape is None else tuple(layer.bias.shape)
    return factors == (1.0, 1.0) and (layer.bias is None or shape == (_channels(layer),))


def _reason(layer: Layer) -> str | None:
    if layer.bias is None:
        return None
    bias = constant_of(layer.bias)
    if bias is None:
        return "its bias is computed at run time"
    if bias.size not in (1, _channels(layer)) or (bias.ndim > 1 and bias.shape[-1] == 1 and bias.size > 1):
        return "its bias differs from row to row"
    return None


def _normalize(layer: Layer, ctx: PassContext) -> None:
    alpha, beta = (np.float32(attribute(layer.node, name, 1.0)) for name in ("alpha", "beta"))
    if alpha != 1:
        weight = ctx.edit.constant(f"{layer.weight.name}_scaled", alpha * array_of(layer.weight), why=WHY)
        ctx.edit.rewire(layer.node, 1, weight, why=WHY)
    if layer.bias is not None:
        spread = np.broadcast_to((beta * array_of(layer.bias)).reshape(-1), (_channels(layer),))
        bias = ctx.edit.constant(f"{layer.bias.name}_scaled", spread, why=WHY)
        ctx.edit.rewire(layer.node, 2, bias, why=WHY)
    transposed = attribute(layer.node, "transB", 0)
    ctx.edit.retype(layer.node, "Gemm", attributes={"transB": transposed} if transposed else {}, why=WHY)


def _channels(layer: Layer) -> int:
    return int(array_of(layer.weight).shape[layer.channel_axis])
