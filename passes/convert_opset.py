"""Carry the model over to an operator set in which ONNX Runtime quantizes per channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxq.ir.module import GraphModule
from onnxq.ir.opset import convert_opset
from onnxq.passmanager.base import Effect, Pass, PassContext


@dataclass(frozen=True)
class ConvertOpset(Pass):
    """Convert the standard operators, each by what changed in it; models in between stay as they are.

    Options:
        minimum: The oldest operator set that later passes can work with; 13 brought per-channel scales.
        maximum: The newest one; onnxruntime 1.32.0 opens models of operator set 28, but has no kernel for
            its QuantizeLinear.

    """

    name: ClassVar[str] = "convert-opset"
    effect: ClassVar[Effect] = Effect.EXACT
    minimum: int = 13
    maximum: int = 27

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """A model without standard operators only learns of them."""
        if module.opset == 0:
            ctx.edit.apply(self._import, why="later passes write standard operators")
        elif module.opset < self.minimum:
            why = f"operator set {module.opset} has no per-channel scales"
            ctx.edit.apply(lambda model: convert_opset(model, self.minimum), why=why)
        elif module.opset > self.maximum:
            why = f"onnxruntime cannot quantize in operator set {module.opset}"
            ctx.edit.apply(lambda model: convert_opset(model, self.maximum), why=why)

    def _import(self, model: ir.Model) -> ir.Model:
        model.opset_imports[""] = self.minimum
        return model
