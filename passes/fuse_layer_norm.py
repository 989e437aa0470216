"""Write layer normalization as one operator.

Before::

    d = x - ReduceMean<axes>(x); v = ReduceMean<axes>(d * d); y = d / Sqrt(v + epsilon) * gamma + beta

After: ``y = LayerNormalization<axis, epsilon>(x, gamma, beta)``.

Method: Ba, Kiros and Hinton, "Layer Normalization", 2016.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxq.analysis.normalization import Norm, norm_at
from onnxq.ir.module import (
    GraphModule,
    is_standard,
    rank_of,
)
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.passmanager.fusing import raise_for

FIRST_OPSET = 17
WHY = "one kernel for the normalization"


@dataclass(frozen=True)
class FuseLayerNorm(Pass):
    """Fuse each variance with the means, the root and the scale around it."""

    name: ClassVar[str] = "fuse-layer-norm"
    effect: ClassVar[Effect] = Effect.EXACT
    optional: ClassVar[bool] = True

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave a variance alone whose root does not divide the deviation that it was taken of."""
        fusible = [node for node in _means(module) if isinstance(norm_at(node), Norm)]
        if not raise_for(fusible, FIRST_OPSET, module, ctx, why="brings LayerNormalization"):
            return
        for node in _means(module):
            norm = norm_at(node)
            if isinstance(norm, str):
                ctx.skip(node, norm)
            elif norm is not None:
                _fuse(norm, ctx)


def _means(module: GraphModule) -> list[ir.Node]:
    return [node for node in module.graph if is_standard(node, "ReduceMean")]


def _fuse(norm: Norm, ctx: PassContext) -> None:
    output = norm.output
    op, axis = ctx.edit.at(output, why=WHY), -(rank_of(norm.scale) or 1)
    inputs, name = (norm.source, norm.scale, norm.bias), f"{output.name}_norm"
    fused = op.LayerNormalization(*inputs, axis=axis, epsilon=norm.epsilon, name=name)
    ctx.edit.replace(output, fused, why=WHY)
