"""Take the mean error that rounding the weights causes out of a convolution's bias.

Before: ``y = Conv(x, w, b)``, ``encode w``. After: ``y = Conv(x, w, b')`` with ``b' = b - (w_q - w) E[x]``,
where ``w_q`` is the weight that its encoding restores and ``E[x]`` the mean of each input channel, estimated
from sampled positions of the calibration data. An output's mean is then what it was in float, up to
padded borders, where fewer inputs count.

Source: Nagel et al., 2021, arXiv:2106.08295, section 3.3: empirical means, weights only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from onnxq.ir.layers import Layer, linear_layers
from onnxq.ir.module import GraphModule, array_of, constant_of, name_of
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.quant.encoding import Encoding
from onnxq.quant.facts import Need, Stat


@dataclass(frozen=True)
class CorrectBias(Pass):
    """Correct each Conv whose weight is encoded; run it before the biases are."""

    name: ClassVar[str] = "correct-bias"
    effect: ClassVar[Effect] = Effect.QUANTIZING

    def needs(self, module: GraphModule) -> Iterable[Need]:
        """Ask for sampled positions, each with all input channels."""
        for layer in _encoded_convolutions(module):
            yield Need(name_of(layer.activation), frozenset({Stat.ROWS}), axis=1)

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Give each layer a bias of its own; one without a bias gets the correction alone."""
        for layer in _encoded_convolutions(module):
            rows = module.facts[name_of(layer.activation)].rows
            if rows is None:
                ctx.skip(layer.node, "its input never had an element")
            elif layer.bias is not None and constant_of(layer.bias) is None:
                ctx.skip(layer.node, "its bias is computed at run time")
            else:
                encoding = module.decisions[name_of(layer.weight)].encoding
                shift = _mean_error(array_of(layer.weight), encoding, rows.mean(axis=0, dtype=np.float64))
                _subtract(layer, shift, ctx)


def _encoded_convolutions(module: GraphModule) -> Iterator[Layer]:
    for layer in linear_layers(module):
        if layer.node.op_type == "Conv" and module.reads_encoded(layer.node, layer.weight):
            yield layer


def _mean_error(weight: NDArray[Any], encoding: Encoding, mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far the mean of each output channel moves, shape (M,).

    Args:
        weight: Shape (M, C / groups, ...).
        encoding: The weight's.
        mean: The mean of each input channel, shape (C,).

    """
    restored = encoding.dequantize(encoding.quantize(weight))
    channels = weight.shape[1]
    error = (restored.astype(np.float64) - weight).reshape(*weight.shape[:2], -1).sum(axis=2)
    groups = len(mean) // channels
    moved: NDArray[np.float64] = error.reshape(groups, -1, channels) @ mean.reshape(groups, channels, 1)
    return moved.reshape(-1)


def _subtract(layer: Layer, shift: NDArray[np.float64], ctx: PassContext) -> None:
    why = "the mean error of its rounded weight is taken out"
    bias = np.zeros(len(shift)) if layer.bias is None else array_of(layer.bias)
    corrected = ctx.edit.constant(f"{layer.output.name}_bias", (bias - shift).astype(np.float32), why=why)
    ctx.edit.rewire(layer.node, 2, corrected, why=why)
