"""Decide int32 encodings for the biases of Conv and Gemm, in steps of input scale times weight scale.

So the runtime adds the bias inside the integer accumulator: with a float bias a quantized Gemm falls back
to float.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from onnxq.analysis.layers import Layer, linear_layers
from onnxq.ir.module import GraphModule, attribute, constant_of
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.quant.accumulator import accumulator_steps, holds_bias
from onnxq.quant.encodings import Affine, Encoding


@dataclass(frozen=True)
class EncodeBiases(Pass):
    """Encode each constant bias whose layer has an encoded input and an encoded weight."""

    name: ClassVar[str] = "encode-biases"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Where the bias has to stay in float, its layer goes back to float: it would run in float anyway."""
        for layer in linear_layers(module):
            operands = module.integer_operands(layer.node)
            if layer.bias is None or operands is None:
                continue
            activation, weight = operands
            if activation.axis is not None:
                ctx.skip(layer.node, "its input has more than one scale, so its bias stays in float")
                continue
            reason = _reason(layer, activation, weight)
            if reason is not None:
                _back_to_float(layer, module, ctx)
                ctx.skip(layer.node, reason)
                continue
            encoding = _encoding(activation, weight)
            ctx.edit.encode(layer.bias, encoding, readers=[layer.node], why="added inside the accumulator")


def _back_to_float(layer: Layer, module: GraphModule, ctx: PassContext) -> None:
    why = "no integer kernel takes its bias"
    ctx.edit.forget(layer.weight, readers=[layer.node], why=why)
    if module.encoding_of(layer.activation) is None:
        ctx.edit.forget(layer.activation, readers=[layer.node], why=why)


def _reason(layer: Layer, activation: Encoding, weight: Encoding) -> str | None:
    bias = constant_of(layer.bias)
    if bias is None:
        return "its bias is computed at run time, so it stays in float"
    if attribute(layer.node, "alpha", 1.0) != 1 or attribute(layer.node, "beta", 1.0) != 1:
        return "the Gemm scales its terms, so it stays in float"
    if bias.ndim != 1 or bias.shape[0] != _channels(layer):
        return "its bias is not one number for each channel, so it stays in float"
    scale = _scale(activation, weight)
    if not np.isfinite(scale).all():
        return "float32 cannot hold such large steps, so it stays in float"
    if not holds_bias(bias, scale):
        return "int32 cannot hold its bias in such small steps, so it stays in float: run fit-biases before"
    return None


def _channels(layer: Layer) -> int:
    weight = constant_of(layer.weight)
    return 0 if weight is None else int(weight.shape[layer.channel_axis])


def _scale(activation: Encoding, weight: Encoding) -> NDArray[np.float32]:
    return accumulator_steps(activation.scale, weight.scale)


def _encoding(activation: Encoding, weight: Encoding) -> Affine:
    scale = _scale(activation, weight)
    axis = None if scale.ndim == 0 else 0
    return Affine(scale, np.zeros(scale.shape, np.int32), "int32", axis)
