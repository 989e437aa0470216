"""Find the type and shape of every value, as far as they are known before a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnxq.ir.inference import infer_types
from onnxq.ir.module import GraphModule
from onnxq.passmanager.base import Effect, Pass, PassContext


@dataclass(frozen=True)
class InferShapes(Pass):
    """Run onnx's shape inference; types and shapes that the model states itself stay where true."""

    name: ClassVar[str] = "infer-shapes"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave the work to onnx."""
        ctx.edit.apply(infer_types, why="later passes ask for types and ranks")
