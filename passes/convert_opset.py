"""Raise the model to an operator set that knows per-channel QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxq.ir.module import GraphModule
from onnxq.ir.opset import raise_opset
from onnxq.passmanager.base import Effect, Pass, PassContext


@dataclass(frozen=True)
class ConvertOpset(Pass):
    """Raise the standard operators with onnx's own converter; newer models stay as they are.

    Options:
        minimum: The oldest operator set that later passes can work with; 13 brought per-channel scales.

    """

    name: ClassVar[str] = "convert-opset"
    effect: ClassVar[Effect] = Effect.EXACT
    minimum: int = 13

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave the work to onnx; a model without standard operators only learns of them."""
        if module.opset == 0:
            ctx.edit.apply(self._import, why="later passes write standard operators")
        elif module.opset < self.minimum:
            why = f"operator set {module.opset} has no per-channel scales"
            ctx.edit.apply(lambda model: raise_opset(model, self.minimum), why=why)

    def _import(self, model: ir.Model) -> ir.Model:
        model.opset_imports[""] = self.minimum
        return model
