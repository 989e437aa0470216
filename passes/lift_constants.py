"""Turn Constant nodes into initializers: ``w = Constant()`` becomes a weight like any other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnx_ir.passes.common import LiftConstantsToInitializersPass

from onnxq.ir.module import GraphModule, is_standard
from onnxq.passmanager.base import Effect, Pass, PassContext


@dataclass(frozen=True)
class LiftConstants(Pass):
    """Lift every Constant node of the main graph and its subgraphs."""

    name: ClassVar[str] = "lift-constants"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave the work to onnx_ir."""
        if any(is_standard(node, "Constant") for node in module.graph):
            lift = LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)
            ctx.edit.apply(lambda model: lift(model).model, why="weights are found among the initializers")
