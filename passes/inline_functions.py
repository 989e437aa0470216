"""Put the bodies of the model's own functions in the place of their calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnx_ir.passes.common import InlinePass

from onnxq.ir.module import GraphModule
from onnxq.passmanager.base import Effect, Pass, PassContext


@dataclass(frozen=True)
class InlineFunctions(Pass):
    """Inline every function, so that later passes see one flat graph."""

    name: ClassVar[str] = "inline-functions"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave the work to onnx_ir."""
        if module.model.functions:
            ctx.edit.apply(lambda model: InlinePass()(model).model, why="later passes see one flat graph")
