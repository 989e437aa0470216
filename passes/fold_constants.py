"""Compute what depends on constants alone.

Before: ``t = Transpose(w); y = MatMul(x, t)``. After: ``y = MatMul(x, t)`` with ``t`` an initializer.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import onnx_ir as ir
from onnxscript.optimizer import fold_constants

from onnxq.errors import ModelError
from onnxq.ir.check import check_finite
from onnxq.ir.constants import lift_constants
from onnxq.ir.module import GraphModule, constant_of, input_of, is_standard, rank_of
from onnxq.limits import CONSTANT_BYTES
from onnxq.passmanager.base import Effect, Pass, PassContext

VIEWS = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
WITH_SUBGRAPHS = ("If", "Loop", "Scan", "SequenceMap")
MOST_FILLED = 1024
"""Elements up to which a tensor of one number is written out: pads and shapes are computed from such."""
BOUNDED = ("Compress", "NonMaxSuppression", "NonZero", "Unique")
"""The size of their outputs is known from the values alone, and is that of their inputs at most."""
LARGEST = 512 * 512
"""Elements of a result that is kept even where the file grows by them."""


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
        before = frozenset(module.graph.initializers)
        ctx.edit.apply(_fold, why="computed once, here, instead of in every run")
        check_finite(module.graph, before)


def _fold(model: ir.Model) -> ir.Model:
    fold_constants(model, should_fold=_shall_fold, output_size_limit=LARGEST)
    _give_ranges_scalars(model.graph)
    _refuse_huge(model.graph)
    return lift_constants(model)


def _give_ranges_scalars(graph: ir.Graph) -> None:
    """Let each Range read scalars: ONNX Runtime takes vectors of one element while their shape is hidden.

    Folding brings such shapes to light, as where it puts the branch of an If in its place.
    """
    for node in [node for node in graph if is_standard(node, "Range")]:
        for index, value in enumerate(node.inputs):
            if value is not None and value.shape is not None and len(value.shape) == 1:
                scalar = ir.Value(name=f"{node.outputs[0].name}_{index}", type=value.type, shape=ir.Shape(()))
                graph.insert_before(node, ir.Node("", "Squeeze", [value], outputs=[scalar], name=scalar.name))
                node.replace_input_with(index, scalar)


def _splits_by_an_unknown_number(node: ir.Node) -> bool:
    """Tell whether a sequence's parts get their size, one for all, from a value that is no constant."""
    size = input_of(node, 1)
    return is_standard(node, "SplitToSequence") and rank_of(size) == 0 and constant_of(size) is None


def _shall_fold(node: ir.Node) -> bool | None:
    """Return True to fold at any size, False to leave alone, None to leave the choice to onnxscript."""
    if is_standard(node, *WITH_SUBGRAPHS) or _grows(node):
        return False
    if is_standard(node, "ConstantOfShape"):
        shape = constant_of(node.inputs[0])
        return True if shape is not None and shape.prod() <= MOST_FILLED else None
    if not is_standard(node, *VIEWS):
        return None
    weight = node.inputs[0]
    constant = all(value is None or constant_of(value) is not None for value in node.inputs)
    return True if constant and weight is not None and len(weight.uses()) == 1 else None


def _grows(node: ir.Node) -> bool:
    """Tell whether the result would be thrown away for its size, so that it need not be computed.

    Small constants can ask for gigabytes: Expand, Tile, Pad, or Concat in a row.
    """
    if is_standard(node, *BOUNDED):
        return False
    sizes = [_size(value) for value in node.outputs]
    if None in sizes:
        return True
    given_up = {value for value in node.inputs if value is not None and len(value.uses()) == 1}
    saved = sum(_size(value) or 0 for value in given_up)
    return max(size or 0 for size in sizes) > LARGEST + saved


def _size(value: ir.Value) -> int | None:
    """Return the number of elements; None if it is not known."""
    axes = None if value.shape is None else [axis if isinstance(axis, int) else None for axis in value.shape]
    if axes is None or None in axes:
        return None
    return prod(axis or 0 for axis in axes)


def _refuse_huge(graph: ir.Graph) -> None:
    """Refuse what ONNX Runtime, which folds at any size, would fill the memory with.

    Raises:
        ModelError: A value that constants alone decide is larger than the limit.

    """
    constant = set(graph.initializers.values()) - set(graph.inputs)
    made: dict[ir.Value, int] = {}
    for node in graph:
        if all(value is None or value in constant for value in node.inputs):
            constant.update(node.outputs)
            made.update((value, _bytes(value)) for value in node.outputs)
    largest = max(made, key=lambda value: made[value], default=None)
    if largest is not None:
        what = f"it computes {list(largest.shape or ())} from constants alone, which is"
        CONSTANT_BYTES.check(made[largest], what, f"value {largest.name!r}", ModelError)


def _bytes(value: ir.Value) -> int:
    return (_size(value) or 0) * (value.dtype.bitwidth if value.dtype is not None else 0) // 8
