"""Find the type and shape of every value, as far as they are known before a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnx_ir.passes.common import ShapeInferencePass

from onnxq.ir.module import GraphModule
from onnxq.passmanager.base import Effect, Pass, PassContext


@dataclass(frozen=True)
class InferShapes(Pass):
    """Run onnx's shape inference; types and shapes that the model states itself stay."""

    name: ClassVar[str] = "infer-shapes"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave the work to onnx."""
        infer = ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)
        ctx.edit.apply(lambda model: infer(model).model, why="later passes ask for types and ranks")
