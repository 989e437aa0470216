"""Remove nodes, initializers and functions that no output depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedFunctionsPass, RemoveUnusedNodesPass, RemoveUnusedOpsetsPass

from onnxq.ir.module import GraphModule
from onnxq.passmanager.base import Effect, Pass, PassContext


@dataclass(frozen=True)
class RemoveDead(Pass):
    """Clean up after other passes."""

    name: ClassVar[str] = "remove-dead"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave the work to onnx_ir."""
        ctx.edit.apply(_clean, why="nothing depends on them")


def _clean(model: ir.Model) -> ir.Model:
    remove_functions = RemoveUnusedFunctionsPass()  # type: ignore[no-untyped-call]
    for step in (RemoveUnusedNodesPass(), remove_functions, RemoveUnusedOpsetsPass()):
        model = step(model).model
    return model
