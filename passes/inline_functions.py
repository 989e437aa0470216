"""Put the bodies of the model's own functions in the place of their calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from onnxq.errors import ModelError
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
            ctx.edit.apply(_inline, why="later passes see one flat graph")


def _inline(model: ir.Model) -> ir.Model:
    """Inline, or say what onnx_ir cannot: subgraphs as attributes, and another operator set in a function.

    Raises:
        ModelError: A function cannot be inlined.

    """
    try:
        return InlinePass()(model).model
    except ValueError as error:
        raise ModelError(
            f"a function cannot be inlined: {error}", hint="export the model again, without functions"
        ) from error
