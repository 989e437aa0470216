"""Turn Constant nodes into initializers: ``w = Constant()`` becomes a weight like any other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnxq.ir.constants import lift_constants
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
            ctx.edit.apply(lift_constants, why="weights are found among the initializers")
