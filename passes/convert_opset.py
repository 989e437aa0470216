"""Carry the model over to an operator set in which ONNX Runtime quantizes per channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxq.ir.module import GraphModule
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.passmanager.raising import move_to_opset
from onnxq.rewrite.opset import OpsetError

PER_CHANNEL = 13
"""The first operator set whose scales may be one for each channel."""


@dataclass(frozen=True)
class ConvertOpset(Pass):
    """Convert the standard operators, each by what changed in it; models in between stay as they are.

    Options:
        minimum: The operator set that later passes want; 13 brought per-channel scales. Where a node cannot
            follow so far, the model is raised as far as it can, but at least to 13.
        maximum: The newest one; onnxruntime 1.32.0 opens models of operator set 28, but has no kernel for
            its QuantizeLinear.

    """

    name: ClassVar[str] = "convert-opset"
    effect: ClassVar[Effect] = Effect.EXACT
    minimum: int = 13
    maximum: int = 27

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Go as far as every node can; a model without standard operators only learns of them."""
        if module.opset == 0:
            ctx.edit.apply(self._import, why="later passes write standard operators")
        elif module.opset < self.minimum:
            why = f"operator set {module.opset} has no per-channel scales"
            self._raise(module, ctx, why)
        elif module.opset > self.maximum:
            why = f"onnxruntime cannot quantize in operator set {module.opset}"
            move_to_opset(module, self.maximum, ctx, why=why)

    def _raise(self, module: GraphModule, ctx: PassContext, why: str) -> None:
        """Try the minimum, and then what lies below it; one that has no per-channel scales is no use."""
        for version in range(self.minimum, PER_CHANNEL - 1, -1):
            if version <= module.opset:
                return
            try:
                move_to_opset(module, version, ctx, why=why)
                return
            except OpsetError as error:
                if version == PER_CHANNEL:
                    raise
                ctx.skip(error.node, error.message)

    def _import(self, model: ir.Model) -> ir.Model:
        model.opset_imports[""] = self.minimum
        return model
