"""Scores of attention between their product and their softmax: what scales them and what masks them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import onnx_ir as ir

from onnxq.analysis.padding import ABSORBING
from onnxq.ir.module import constant_of, is_standard, rank_of, sole_reader

Size = int | ir.SymbolicDim
"""The length of an axis, or the name that it has."""


@dataclass(frozen=True)
class Mask:
    """What is added to scores, or which of them are replaced.

    Args:
        value: Numbers to add; with ``low``, truth values.
        low: The constant that takes the place of some scores, so low that it swallows them.
        keeps: With ``low``: whether a score is kept where ``value`` is true, or else where it is false.
        folded: Whether it lies over scores whose first axis counts samples and heads together.

    """

    value: ir.Value
    low: ir.Value | None = None
    keeps: bool = True
    folded: bool = False


@dataclass(frozen=True)
class Scores:
    """The product of queries and keys, the positive factor behind it, and the masks behind that, in order."""

    product: ir.Node
    factor: float = 1.0
    masks: tuple[Mask, ...] = ()


def scores_of(value: ir.Value | None) -> Scores | None:
    """Return what ``value`` is made of, or None if it is no scaled and masked product."""
    node = None if value is None else value.producer()
    if value is None or node is None:
        return None
    if is_standard(node, "MatMul"):
        return Scores(node)
    bare, factor = unscaled(value)
    if bare is not value:
        found = scores_of(bare)
        return None if found is None or found.masks else replace(found, factor=found.factor * factor)
    if keeps_matrices(node):
        return scores_of(node.inputs[0])
    for scores, mask in _masked(node):
        found = scores_of(scores)
        if found is not None:
            return replace(found, masks=(*found.masks, mask))
    return None


def _masked(node: ir.Node) -> Iterator[tuple[ir.Value, Mask]]:
    """Yield which input may be scores, and what masks them then."""
    inputs = [value for value in node.inputs if value is not None]
    folded = rank_of(node.outputs[0]) == 3
    if is_standard(node, "Add"):
        yield inputs[0], Mask(inputs[1], folded=folded)
        yield inputs[1], Mask(inputs[0], folded=folded)
    if is_standard(node, "Where"):
        for scores, low in (inputs[1:], inputs[:0:-1]):
            if _swallows(low):
                yield scores, Mask(inputs[0], low, keeps=scores is inputs[1], folded=folded)


def _swallows(value: ir.Value) -> bool:
    constant = constant_of(value)
    return constant is not None and constant.size == 1 and float(constant.reshape(())) <= ABSORBING


def unscaled(value: ir.Value | None) -> tuple[ir.Value | None, float]:
    """Return what is multiplied by a constant number, and the number; 1 where it is by none."""
    node = None if value is None else value.producer()
    if node is None or not is_standard(node, "Mul", "Div"):
        return value, 1.0
    for bare, number in ((0, 1), (1, 0)) if node.op_type == "Mul" else ((0, 1),):
        constant = constant_of(node.inputs[number])
        if constant is not None and constant.size == 1 and constant.ndim <= (rank_of(node.inputs[bare]) or 0):
            factor = float(constant.reshape(()))
            return node.inputs[bare], factor if node.op_type == "Mul" else 1 / factor
    return value, 1.0


def weighing_of(softmax: ir.Node) -> tuple[ir.Node, bool] | None:
    """Return the product of weights and values, and whether rows that are no numbers become 0 before it."""
    weights, guarded = softmax.outputs[0], False
    readers = {node.op_type: node for node in weights.consumers()}
    if readers.keys() == {"IsNaN", "Where"} and _guards(readers["Where"], readers["IsNaN"], weights):
        weights, guarded = readers["Where"].outputs[0], True
    reader = sole_reader(weights)
    if reader is not None and keeps_matrices(reader):
        weights = reader.outputs[0]
        reader = sole_reader(weights)
    if reader is None or not is_standard(reader, "MatMul") or reader.inputs[0] is not weights:
        return None
    return reader, guarded


def _guards(where: ir.Node, is_nan: ir.Node, weights: ir.Value) -> bool:
    zero = constant_of(where.inputs[1])
    reads = where.inputs[0] is is_nan.outputs[0] and where.inputs[2] is weights
    alone = len(weights.uses()) == 2 and sole_reader(is_nan.outputs[0]) is where
    return reads and alone and zero is not None and not zero.any() and not weights.is_graph_output()


def keeps_matrices(node: ir.Node) -> bool:
    """Tell whether ``node`` reshapes no more than the axes before the last two: samples and heads."""
    if not is_standard(node, "Reshape"):
        return False
    before, after = (None if value is None else value.shape for value in (node.inputs[0], node.outputs[0]))
    if before is None or after is None or min(len(before), len(after)) < 3:
        return False
    return all(surely_equal(before[axis], after[axis]) for axis in (-2, -1))


def surely_equal(size: Size, other: Size) -> bool:
    """Tell whether two lengths are one; two without a name may differ."""
    return _simple(size) == _simple(other) and size != ir.SymbolicDim(None)


def _simple(size: Size) -> Size:
    """Return ``tokens`` for ``tokens * tokens / tokens``, which inference makes of a Reshape."""
    return size.simplify() if isinstance(size, ir.SymbolicDim) and size.value is not None else size
