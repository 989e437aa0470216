"""Stop listing weights as inputs of the model, so that they count as constants.

Before: ``main (x, w) <w = {...}>``. After: ``main (x) <w = {...}>``. Models of IR version 3 had to list
them; a caller who overrides a weight at run time can no longer do so. What was declared with open axes gets
the shape of its numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes.common import RemoveInitializersFromInputsPass

from onnxq.ir.external import believe_tensors
from onnxq.ir.module import GraphModule
from onnxq.ir.store import FIRST_IR_VERSION
from onnxq.passmanager.base import Effect, Pass, PassContext


@dataclass(frozen=True)
class RemoveInitializerInputs(Pass):
    """Take initializers off the list of inputs."""

    name: ClassVar[str] = "remove-initializer-inputs"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Raise the IR version too where the old one asks for the listing."""
        if any(value.is_initializer() for value in module.graph.inputs):
            ctx.edit.apply(_remove, why="weights that are no inputs count as constants")


def _remove(model: ir.Model) -> ir.Model:
    model.ir_version = max(model.ir_version, FIRST_IR_VERSION)
    model = RemoveInitializersFromInputsPass()(model).model
    believe_tensors(model)
    return model
