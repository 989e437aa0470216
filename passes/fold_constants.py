"""Compute what depends on constants alone.

Before: ``t = Transpose(w); y = MatMul(x, t)``. After: ``y = MatMul(x, t)`` with ``t`` an initializer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import LiftSubgraphInitializersToMainGraphPass
from onnxscript.optimizer import fold_constants

from onnxq.analysis.constant_parts import SMALL, size_of, worthwhile_nodes
from onnxq.analysis.weights import is_multiplied
from onnxq.errors import ModelError
from onnxq.ir.check import check_finite
from onnxq.ir.constants import lift_constants
from onnxq.ir.module import (
    GraphModule,
    array_of,
    attribute,
    constant_of,
    constant_tensor,
    input_of,
    is_standard,
    rank_of,
)
from onnxq.limits import CONSTANT_BYTES
from onnxq.passmanager.base import Effect, Pass, PassContext

WITH_SUBGRAPHS = ("If", "Loop", "Scan", "SequenceMap")
MOST_FILLED = 1024
"""Elements up to which a tensor of one number is written out: pads and shapes are computed from such."""
BOUNDED = ("Compress", "NonMaxSuppression", "NonZero", "Unique")
"""The size of their outputs is known from the values alone, and is that of their inputs at most."""


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Fold as onnxscript does, and at any size what makes a weight of constants, or no more of them.

    A part of the graph is looked at as a whole (``onnxq.analysis.constant_parts``): ``w = g * v / |v|``,
    ``w + b @ a``, a table and its transpose.
    """

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
    has_bodies = len(list(model.graphs())) > 1
    _compute(model)
    if _cut_constants(model.graph):
        _compute(model)
    if has_bodies:
        LiftSubgraphInitializersToMainGraphPass()(model)
        _let_go_of_branches(model)
    _give_ranges_scalars(model.graph)
    _refuse_huge(model.graph)
    return lift_constants(model)


def _compute(model: ir.Model) -> None:
    worthwhile = worthwhile_nodes(model.graph)

    def shall_fold(node: ir.Node) -> bool | None:
        return (node in worthwhile and len(node.outputs) == 1) or _shall_fold(node)

    fold_constants(model, should_fold=shall_fold, output_size_limit=CONSTANT_BYTES.value)


def _let_go_of_branches(model: ir.Model) -> None:
    """Let nodes of branches that are never taken, and were left out, read none of the constants any more."""
    present = set(ir.traversal.RecursiveGraphIterator(model.graph))
    for value in list(model.graph.initializers.values()):
        for node, index in value.uses():
            if node not in present:
                node.replace_input_with(index, None)


def _cut_constants(graph: ir.Graph) -> bool:
    """Put its parts in the place of a Split of a constant, which onnxscript leaves; tell whether one was.

    Where somebody else reads the constant, only weights are worth the room.
    """
    splits = [node for node in ir.traversal.RecursiveGraphIterator(graph) if is_standard(node, "Split")]
    found = [node for node in splits if _is_worth_cutting(node)]
    for node in found:
        whole, axis = array_of(node.inputs[0]), attribute(node, "axis", 0)
        ends = np.cumsum([0 if value.shape is None else value.shape[axis] for value in node.outputs])
        for value, part in zip(node.outputs, np.split(whole, ends[:-1], axis), strict=True):
            constant = ir.Value(name=f"{value.name}_part", type=value.type, shape=ir.Shape(part.shape))
            constant.const_value = ir.tensor(np.ascontiguousarray(part), name=constant.name)
            _graph_of(node).register_initializer(constant)
            value.replace_all_uses_with(constant)
    return bool(found)


def _graph_of(node: ir.Node) -> ir.Graph:
    assert isinstance(node.graph, ir.Graph)  # functions are inlined before
    return node.graph


def _is_worth_cutting(split: ir.Node) -> bool:
    whole, parts = split.inputs[0], split.outputs
    known = whole is not None and constant_tensor(whole) is not None and None not in map(size_of, parts)
    gains = known and whole is not None and (len(whole.uses()) == 1 or any(map(is_multiplied, parts)))
    return gains and not any(value.is_graph_output() for value in parts)


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
    if is_standard(node, *WITH_SUBGRAPHS) or len(node.outputs) > 1 or _grows(node):
        return False
    if is_standard(node, "ConstantOfShape"):
        shape = constant_of(node.inputs[0])
        return True if shape is not None and shape.prod() <= MOST_FILLED else None
    return None


def _grows(node: ir.Node) -> bool:
    """Tell whether the result would be thrown away for its size, so that it need not be computed.

    Small constants can ask for gigabytes: Expand, Tile, Pad, or Concat in a row.
    """
    if is_standard(node, *BOUNDED):
        return False
    sizes = [size_of(value) for value in node.outputs]
    if None in sizes:
        return True
    given_up = {value for value in node.inputs if value is not None and len(value.uses()) == 1}
    saved = sum(size_of(value) or 0 for value in given_up)
    return max(size or 0 for size in sizes) > SMALL + saved


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
    return (size_of(value) or 0) * (value.dtype.bitwidth if value.dtype is not None else 0) // 8
