"""Compute what depends on constants alone.

Before: ``t = Transpose(w); y = MatMul(x, t)``. After: ``y = MatMul(x, t)`` with ``t`` an initializer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnxscript.optimizer import fold_constants

from onnxq.ir.constants import lift_constants
from onnxq.ir.module import GraphModule, constant_of, input_of, is_standard, rank_of
from onnxq.passmanager.base import Effect, Pass, PassContext

VIEWS = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
WITH_SUBGRAPHS = ("If", "Loop", "Scan", "SequenceMap")
MOST_FILLED = 1024
"""Elements up to which a tensor of one number is written out: pads and shapes are computed from such."""


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Fold as onnxscript does, and weights of any size behind an operator that only rearranges them."""

    name: ClassVar[str] = "fold-constants"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave the work to onnxscript, but for a split that onnxscript 0.7.2 fails on."""
        for node in module.graph.all_nodes():
            if _splits_by_an_unknown_number(node):
                ctx.skip(node, "onnxscript cannot fold beside a split whose size is computed at run time")
                return
        ctx.edit.apply(_fold, why="computed once, here, instead of in every run")


def _fold(model: ir.Model) -> ir.Model:
    fold_constants(model, should_fold=_shall_fold)
    return lift_constants(model)


def _splits_by_an_unknown_number(node: ir.Node) -> bool:
    """Tell whether a sequence's parts get their size, one for all, from a value that is no constant."""
    size = input_of(node, 1)
    return is_standard(node, "SplitToSequence") and rank_of(size) == 0 and constant_of(size) is None


def _shall_fold(node: ir.Node) -> bool | None:
    """Return True to fold at any size, False to leave alone, None to leave the choice to onnxscript."""
    if is_standard(node, *WITH_SUBGRAPHS):
        return False
    if is_standard(node, "ConstantOfShape"):
        shape = constant_of(node.inputs[0])
        return True if shape is not None and shape.prod() <= MOST_FILLED else None
    if not is_standard(node, *VIEWS):
        return None
    weight = node.inputs[0]
    constant = all(value is None or constant_of(value) is not None for value in node.inputs)
    return True if constant and weight is not None and len(weight.uses()) == 1 else None
