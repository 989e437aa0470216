"""Compute what depends on constants alone.

Before: ``t = Transpose(w); y = MatMul(x, t)``. After: ``y = MatMul(x, t)`` with ``t`` an initializer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnxscript.optimizer import fold_constants

from onnxq.ir.module import GraphModule, constant_of, is_standard
from onnxq.passmanager.base import Effect, Pass, PassContext

VIEWS = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
WITH_SUBGRAPHS = ("If", "Loop", "Scan", "SequenceMap")


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Fold as onnxscript does, and weights of any size behind an operator that only rearranges them."""

    name: ClassVar[str] = "fold-constants"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave the work to onnxscript."""
        ctx.edit.apply(_fold, why="computed once, here, instead of in every run")


def _fold(model: ir.Model) -> ir.Model:
    fold_constants(model, should_fold=_shall_fold)
    return model


def _shall_fold(node: ir.Node) -> bool | None:
    """Return True to fold at any size, False to leave alone, None to leave the choice to onnxscript."""
    if is_standard(node, *WITH_SUBGRAPHS):
        return False
    if not is_standard(node, *VIEWS):
        return None
    weight = node.inputs[0]
    constant = all(value is None or constant_of(value) is not None for value in node.inputs)
    return True if constant and weight is not None and len(weight.uses()) == 1 else None
