"""Let a half-precision model compute in float32, as CPUs have no half-precision kernels.

Before: ``main (float16 x) => (float16 y) {y = MatMul(x, w)}``. After: the input is cast to float, the graph
computes in float32, and the output is cast back; inputs and outputs keep their types. So is bfloat16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnxq.ir.module import GraphModule
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.rewrite.casting import has_subgraph
from onnxq.rewrite.widening import NARROW, widen


@dataclass(frozen=True)
class WidenFloat16(Pass):
    """Widen every float16 and bfloat16 constant, cast and value of the main graph."""

    name: ClassVar[str] = "widen-float16"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave a model as it is in which graphs inside nodes may read narrow values."""
        if not any(value.dtype in NARROW for value in module.values()):
            return
        with_subgraph = next((node for node in module.graph if has_subgraph(node)), None)
        if with_subgraph is None:
            widen(module, ctx.edit)
        else:
            ctx.skip(with_subgraph, "its subgraph may read half-precision values of the main graph")
