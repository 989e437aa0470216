"""Give the columns of a weight of several matrices one range, so that one scale serves all of them.

Before: ``y = MatMul(x, w)``, ``w`` of shape (E, K, N): experts, or heads. After: ``y = f * MatMul(x, w / f)``
with ``f`` of shape (E, 1, N): how far each column of each matrix reaches, beside the furthest.
No kernel of ONNX Runtime takes a scale for each matrix, and with one for all of them small matrices would
lose nearly all their bits. A weight of shape (1, K, N) is one matrix, and is written as one: its columns get
scales of their own then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from onnxq.analysis.layers import Layer, linear_layers
from onnxq.ir.module import GraphModule, array_of, rank_of
from onnxq.passmanager.base import Effect, Pass, PassContext

SMALLEST = 1e-30
"""Columns that reach less far beside the furthest count as if they did: float32 holds this factor."""


@dataclass(frozen=True)
class NormalizeMatrices(Pass):
    """Normalize each weight of a MatMul with more than two axes; run it before anything is encoded."""

    name: ClassVar[str] = "normalize-matrices"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave a weight alone that a vector meets, as the product has other axes then."""
        for layer in list(linear_layers(module)):
            if layer.node.op_type != "MatMul" or rank_of(layer.weight) == 2:
                continue
            if module.reads_encoded(layer.node, layer.weight):
                ctx.skip(layer.node, "its weight is encoded already")
            elif (rank_of(layer.activation) or 0) < 2:
                ctx.skip(layer.node, "its input is a vector, or nobody knows how many axes it has")
            else:
                _normalize(layer, ctx)


def _normalize(layer: Layer, ctx: PassContext) -> None:
    weight = array_of(layer.weight)
    if weight[..., 0, 0].size == 1 and (rank_of(layer.activation) or 0) >= weight.ndim:
        why = "it is one matrix"
        matrix = ctx.edit.constant(f"{layer.weight.name}_matrix", weight.reshape(weight.shape[-2:]), why=why)
        ctx.edit.rewire(layer.node, 1, matrix, why=why)
        return
    reach = np.abs(weight.astype(np.float64)).max(axis=-2, keepdims=True)
    if (reach == reach.max()).all():
        return
    _scale(layer, np.maximum(reach / reach.max(), SMALLEST).astype(np.float32), ctx)


def _scale(layer: Layer, factors: NDArray[np.float32], ctx: PassContext) -> None:
    why, node, output = "its matrices differ in their ranges", layer.node, layer.output
    even = array_of(layer.weight) / factors
    weight = ctx.edit.constant(f"{layer.weight.name}_even", even, why=why, dtype=layer.weight.dtype)
    op = ctx.edit.at(node, why=why)
    product = op.MatMul(layer.activation, weight, name=f"{output.name}_product")
    scaled = op.Mul(product, op.constant(f"{output.name}_reaches", factors), name=f"{output.name}_scaled")
    ctx.edit.replace(output, scaled, why=why)
    ctx.edit.remove(node, why=why)
