"""Write Gelu as one operator.

Before: ``y = x * 0.5 * (1 + Erf(x / sqrt(2)))``, or ``y = 0.5 * x * (1 + Tanh(sqrt(2 / pi) * (x + 0.044715 *
x**3)))``, multiplied out in any order. After: ``y = Gelu<approximate>(x)``.

Forms: Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxq.analysis.gelu import ARGUMENTS, Gelu, gelu_of
from onnxq.ir.module import GraphModule, is_standard
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.passmanager.fusing import raise_for

FIRST_OPSET = 20
WHY = "one kernel for the activation"


@dataclass(frozen=True)
class FuseGelu(Pass):
    """Fuse each Erf and Tanh with the products and sums around it."""

    name: ClassVar[str] = "fuse-gelu"
    effect: ClassVar[Effect] = Effect.EXACT
    optional: ClassVar[bool] = True

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave an Erf or Tanh alone that is no part of a Gelu."""
        fusible = [node for node in _bends(module) if isinstance(gelu_of(node), Gelu)]
        if not raise_for(fusible, FIRST_OPSET, module, ctx, why="brings Gelu"):
            return
        for node in _bends(module):
            gelu = gelu_of(node)
            if isinstance(gelu, str):
                ctx.skip(node, gelu)
            else:
                _fuse(gelu, ctx)


def _bends(module: GraphModule) -> list[ir.Node]:
    return [node for node in module.graph if is_standard(node, *ARGUMENTS)]


def _fuse(gelu: Gelu, ctx: PassContext) -> None:
    output = gelu.output
    fused = ctx.edit.at(output, why=WHY).Gelu(gelu.source, approximate=gelu.approximate)
    ctx.edit.replace(output, fused, why=WHY)
