"""Layer normalization as exporters write it: the deviation from a mean, over the root of its variance."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnxq.analysis.patterns import operand_beside, scalar_of
from onnxq.ir.module import attribute, constant_of, input_of, is_float, is_standard, rank_of, sole_reader


@dataclass(frozen=True)
class Variance:
    """The mean of the squares of what a value deviates from its own mean."""

    node: ir.Node
    mean: ir.Node
    deviation: ir.Value
    source: ir.Value


@dataclass(frozen=True)
class Norm:
    """One layer normalization, from its input to its output."""

    source: ir.Value
    scale: ir.Value
    bias: ir.Value | None
    epsilon: float
    output: ir.Value


def norm_at(node: ir.Node) -> Norm | str | None:
    """Return the normalization that ``node`` computes the variance of, or why there is none."""
    variance = _variance_of(node)
    return None if variance is None else _norm_of(variance)


def _variance_of(node: ir.Node) -> Variance | None:
    """Return the variance that ``node`` computes; None where it is the mean of anything else."""
    deviation = _root_of_square(node.inputs[0])
    less = _producer(deviation, "Sub")
    mean = None if less is None else _producer(less.inputs[1], "ReduceMean")
    if deviation is None or less is None or mean is None:
        return None
    source = less.inputs[0]
    return None if source is None or mean.inputs[0] is not source else Variance(node, mean, deviation, source)


def _norm_of(variance: Variance) -> Norm | str:
    """Return the normalization around ``variance``, or why there is none."""
    if not is_float(variance.source):
        return "it does not compute in float32"
    axes = _axes_of(variance.mean)
    if axes is None or axes != _axes_of(variance.node):
        return "its axes are not the last ones, or are not kept"
    shifted = operand_beside(variance.node.outputs[0], "Add")
    epsilon = None if shifted is None else scalar_of(shifted[1])
    if shifted is None or epsilon is None:
        return "no constant epsilon is added to it"
    normalized = _divided(variance.deviation, shifted[0].outputs[0])
    if normalized is None:
        return "its root does not divide the deviation alone"
    scaled = operand_beside(normalized, "Mul")
    if scaled is None or not _spans(scaled[1], variance.source, axes):
        return "nothing of the normalized shape scales what it normalizes"
    if 0 in (scaled[1].shape or ()):
        return "it normalizes nothing, which ONNX Runtime's kernel refuses"
    output = scaled[0].outputs[0]
    biased = operand_beside(output, "Add")
    if biased is not None and _spans(biased[1], variance.source, axes):
        return Norm(variance.source, scaled[1], biased[1], epsilon, biased[0].outputs[0])
    return Norm(variance.source, scaled[1], None, epsilon, output)


def _root_of_square(value: ir.Value | None) -> ir.Value | None:
    """Return what is squared."""
    square = _producer(value, "Mul", "Pow")
    if square is None:
        return None
    root, other = square.inputs
    squared = other is root if square.op_type == "Mul" else scalar_of(other) == 2
    return root if squared else None


def _axes_of(mean: ir.Node) -> list[int] | None:
    """Return the axes, counted from the end, if they are the last ones and are kept."""
    given = constant_of(input_of(mean, 1))
    axes = attribute(mean, "axes", ()) if given is None else given.tolist()
    if not axes or not attribute(mean, "keepdims", 1):
        return None
    rank = rank_of(mean.inputs[0])
    last = sorted(axis if rank is None else axis % rank - rank for axis in axes)
    return last if last == list(range(-len(last), 0)) else None


def _divided(deviation: ir.Value, variance: ir.Value) -> ir.Value | None:
    """Return the deviation divided by the root of the variance."""
    root = sole_reader(variance)
    if root is not None and is_standard(root, "Pow") and scalar_of(root.inputs[1]) == -0.5:
        return _multiplied(deviation, root.outputs[0])
    if root is None or not is_standard(root, "Sqrt"):
        return None
    reader = sole_reader(root.outputs[0])
    if reader is not None and is_standard(reader, "Reciprocal"):
        return _multiplied(deviation, reader.outputs[0])
    if reader is None or not is_standard(reader, "Div") or reader.inputs[1] is not root.outputs[0]:
        return None
    return reader.outputs[0] if _same(reader.inputs[0], deviation) else None


def _multiplied(deviation: ir.Value, inverse: ir.Value) -> ir.Value | None:
    product = operand_beside(inverse, "Mul")
    return product[0].outputs[0] if product is not None and _same(product[1], deviation) else None


def _same(value: ir.Value | None, deviation: ir.Value) -> bool:
    """Tell whether ``value`` is the deviation, which some exporters compute twice."""
    first, second = _producer(value, "Sub"), _producer(deviation, "Sub")
    return first is not None and second is not None and tuple(first.inputs) == tuple(second.inputs)


def _spans(value: ir.Value, source: ir.Value, axes: list[int]) -> bool:
    """Tell whether ``value`` has just the normalized axes of ``source``.

    Where the length of one is unknown it is not 1: of a single number, nothing is left to scale.
    """
    if value.shape is None or len(value.shape) != len(axes):
        return False
    lengths = [None] * len(axes) if source.shape is None else list(source.shape)[-len(axes) :]
    return all(
        isinstance(own, int) and (own == length or (own > 1 and not isinstance(length, int)))
        for own, length in zip(value.shape, lengths, strict=True)
    )


def _producer(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and is_standard(node, *op_types) else None
