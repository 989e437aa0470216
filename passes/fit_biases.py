"""Widen the scale of a weight where a bias does not fit int32 in steps of input scale times weight scale.

Before: ``y = Conv(x, w, b)``, ``encode w: scale=[0.01, 1e-12]`` with ``b = [1, 7]``. After: ``scale=[0.01,
1e-6]``: the second channel gets the smallest scale in whose steps its bias is at most 2^29. Folding a batch
normalization leaves such channels, with weights next to nothing and a bias that counts; runtimes that round
float biases to int32 on their own need the same room.

The wider steps cost nothing that the output could show: a sum over K inputs of up to 255 steps errs by half a
weight step for each, and the bias ``b`` is 2^29 such products, so the error is at most ``K * 2**-22 * |b|``.

Source: the weight scales of onnxruntime's quantizer (``adjust_weight_scale_for_int32_bias``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from onnxq.analysis.layers import Layer, linear_layers
from onnxq.ir.module import GraphModule, array_of, constant_of
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.quant.accumulator import LARGEST_BIAS
from onnxq.quant.encodings import Encoding

LARGEST = LARGEST_BIAS / 2
"""Half of what encode-biases takes, so that a correction of the bias still finds room."""


@dataclass(frozen=True)
class FitBiases(Pass):
    """Widen per channel, or the one scale of a tensor; run it once the activations are encoded."""

    name: ClassVar[str] = "fit-biases"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """A weight with several readers is stored twice where they need different scales."""
        for layer in linear_layers(module):
            operands = module.integer_operands(layer.node)
            if operands is None:
                continue
            activation, weight = operands
            if activation.axis is not None or weight.block_size is not None:
                continue  # sums in several scales, which no bias is added to in integers
            bias = constant_of(layer.bias)
            if bias is None or bias.shape != (_channels(layer),):
                continue
            scale = _widened(weight, np.abs(bias) / LARGEST / activation.scale.astype(np.float64))
            if not np.isfinite(scale).all():
                ctx.skip(layer.node, "float32 cannot hold the steps that its bias would fit")
            elif (scale != weight.scale).any():
                why = f"its bias fits int32 in no smaller steps, in {_count(scale != weight.scale)}"
                ctx.edit.encode(layer.weight, replace(weight, scale=scale), readers=[layer.node], why=why)


def _channels(layer: Layer) -> int:
    return int(array_of(layer.weight).shape[layer.channel_axis])


def _widened(weight: Encoding, needed: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the scale of ``weight``, nowhere smaller than ``needed``, which has one entry per channel."""
    with np.errstate(over="ignore"):
        least = (needed.max() if weight.axis is None else needed).astype(np.float32)
    return np.maximum(weight.scale, least)


def _count(widened: NDArray[np.bool_]) -> str:
    return "its only scale" if widened.ndim == 0 else f"{widened.sum()} of {widened.size} channels"
