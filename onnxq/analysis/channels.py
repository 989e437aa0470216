"""Where the channels of a value lie, and through which operators they pass one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.ir.module import attribute, constant_of, input_of, is_standard, name_of, rank_of

Array = NDArray[Any]


@dataclass(frozen=True)
class Channels:
    """The axes that together count the channels of a value, outermost first.

    Args:
        axes: Counted from the end, in the order of the value's own axes: ``(-1,)``, or ``(-3, -1)`` where
            the channels are split into heads.
        dims: The length of each of them.

    """

    axes: tuple[int, ...]
    dims: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many channels there are."""
        return prod(self.dims)

    @property
    def axis(self) -> int | None:
        """The one channel axis; None where there are several."""
        return self.axes[0] if len(self.axes) == 1 else None

    def spread(self, array: Array) -> Array:
        """Shape ``array``, (count,), so that it broadcasts against the value."""
        shape = [1] * -self.axes[0]
        for axis, length in zip(self.axes, self.dims, strict=True):
            shape[axis] = length
        return array.reshape(shape)


@dataclass(frozen=True)
class Operand:
    """A constant of a node whose elements meet the channels.

    Args:
        node: Who reads it.
        index: As which input; an input that is not there counts as zeros.
        channels: Where the channels lie in it.
        groups: A grouped convolution's weight has the channels of one group only along its axis 1; the
            rows of axis 0 tell which group.

    """

    node: ir.Node
    index: int
    channels: Channels
    groups: int = 1

    @property
    def constant(self) -> Array | None:
        """The array as it is now."""
        return constant_of(input_of(self.node, self.index))

    def spread(self, array: Array) -> Array:
        """Shape ``array``, one number for each channel, so that it broadcasts against the constant."""
        weight = self.constant
        if self.groups == 1 or weight is None:
            return self.channels.spread(array)
        by_group = array.reshape(self.groups, -1)
        rows = np.repeat(by_group, weight.shape[0] // self.groups, axis=0)
        return rows.reshape(*rows.shape, *[1] * (weight.ndim - 2))


@dataclass(frozen=True)
class Step:
    """How an operator hands the channels of one input on to its first output.

    Args:
        channels: Where they lie in the output.
        shift: Whether adding a number to a channel adds the same number to it in the output.
        operand: A constant that is added on the way, and has to be scaled as the channels are.

    """

    channels: Channels
    shift: bool = True
    operand: Operand | None = None


def step(node: ir.Node, index: int, channels: Channels) -> Step | None:
    """Return how channels pass through input ``index`` of ``node``; None if they do not.

    They pass if ``f(x * s) = f(x) * s`` for every positive scale of each channel.
    """
    rule = RULES.get(node.op_type) if is_standard(node, node.op_type) else None
    return None if rule is None else rule(node, index, channels)


def operand_along(node: ir.Node, index: int, channels: Channels) -> Operand | None:
    """Return input ``index`` as a constant that broadcasts against a value with these channels."""
    array = constant_of(input_of(node, index))
    if array is None or not np.issubdtype(array.dtype, np.floating):
        return None
    lengths = [array.shape[axis] if -axis <= array.ndim else 1 for axis in channels.axes]
    fits = all(own in (1, dim) for own, dim in zip(lengths, channels.dims, strict=True))
    return Operand(node, index, channels) if fits else None


def at_axis(value: ir.Value | None, axis: int) -> Channels | None:
    """Return the channels along one axis of a value of known rank and length."""
    rank = rank_of(value)
    if value is None or value.shape is None or not rank or not -rank <= axis < rank:
        return None
    length = value.shape[axis]
    return Channels((axis % rank - rank,), (length,)) if isinstance(length, int) else None


def _same(node: ir.Node, index: int, channels: Channels) -> Step | None:
    return Step(channels) if index == 0 else None


def _homogeneous(node: ir.Node, index: int, channels: Channels) -> Step | None:
    return Step(channels, shift=False) if index == 0 else None


def _pooled(node: ir.Node, index: int, channels: Channels) -> Step | None:
    rank = rank_of(node.inputs[0])
    if rank is None or channels.axes != (1 - rank,):
        return None
    return Step(channels, shift=node.op_type.startswith("Global"))


def _added(node: ir.Node, index: int, channels: Channels) -> Step | None:
    if len(node.inputs) != 2 or not _keeps_rank(node, index):
        return None
    operand = operand_along(node, 1 - index, channels)
    return None if operand is None else Step(channels, operand=operand)


def _multiplied(node: ir.Node, index: int, channels: Channels) -> Step | None:
    factor = constant_of(node.inputs[1 - index])
    if factor is None or factor.size != 1 or (node.op_type == "Div" and index == 1):
        return None
    return Step(channels, shift=False) if _keeps_rank(node, index) else None


def _keeps_rank(node: ir.Node, index: int) -> bool:
    rank, other = rank_of(node.inputs[index]), rank_of(node.inputs[1 - index])
    return rank is not None and other is not None and other <= rank


def _transposed(node: ir.Node, index: int, channels: Channels) -> Step | None:
    rank = rank_of(node.inputs[0])
    if rank is None:
        return None
    perm = list(attribute(node, "perm", range(rank)[::-1]))
    axes = tuple(perm.index(axis + rank) - rank for axis in channels.axes)
    return Step(Channels(axes, channels.dims)) if axes == tuple(sorted(axes)) else None


def _reshaped(node: ir.Node, index: int, channels: Channels) -> Step | None:
    """Follow channels that are the innermost axes, but for axes of length 1."""
    source, shape = node.inputs[0], _shape_of(node)
    if index != 0 or source is None or source.shape is None or shape is None:
        return None
    others = [source.shape[axis] for axis in range(channels.axes[0], 0) if axis not in channels.axes]
    if any(length != 1 for length in others):
        return None
    for depth in range(1, len(shape) + 1):
        dims = shape[-depth:]
        if not all(isinstance(length, int) and length > 0 for length in dims):
            return None
        if prod(dims) == channels.count:
            return Step(_without_ones(dims))
    return None


def _without_ones(dims: list[Any]) -> Channels:
    kept = [(axis - len(dims), length) for axis, length in enumerate(dims) if length != 1]
    axes, lengths = zip(*(kept or [(-1, 1)]), strict=True)
    return Channels(axes, lengths)


def _shape_of(node: ir.Node) -> list[Any] | None:
    """Return the shape of the output, with what the wanted shape of a Reshape tells besides."""
    output = node.outputs[0].shape
    wanted = _wanted(node.inputs[1]) if node.op_type == "Reshape" else None
    if wanted is None:
        return None if output is None else list(output)
    known = [None] * len(wanted) if output is None else list(output)
    return [own if own > 0 else length for own, length in zip(wanted, known, strict=True)]


def _wanted(shape: ir.Value | None) -> list[int] | None:
    """Return the elements of a shape, -1 for what is computed; None if it is not known how many there are."""
    constant = constant_of(shape)
    if constant is not None:
        return [int(length) for length in constant]
    producer = None if shape is None else shape.producer()
    if producer is None or not is_standard(producer, "Concat"):
        return None if shape is None or shape.shape != (1,) else [-1]
    parts = [_wanted(part) for part in producer.inputs]
    return None if None in parts else [length for part in parts for length in part or ()]


def _reduced(node: ir.Node, index: int, channels: Channels) -> Step | None:
    """Follow channels through a mean over other axes that are kept, or lie before the channels."""
    rank, given = rank_of(node.inputs[0]), constant_of(input_of(node, 1))
    axes = attribute(node, "axes", ()) if given is None else given.tolist()
    if index != 0 or rank is None or not axes:
        return None
    last = [axis % rank - rank for axis in axes]
    if attribute(node, "keepdims", 1):
        return None if set(last) & set(channels.axes) else Step(channels)
    return Step(channels) if max(last) < channels.axes[0] else None


def _gathered(node: ir.Node, index: int, channels: Channels) -> Step | None:
    """Follow channels through a choice along an axis before them."""
    rank = rank_of(node.inputs[0])
    if index != 0 or rank is None:
        return None
    axis = attribute(node, "axis", 0) % rank - rank
    return Step(channels) if axis < channels.axes[0] else None


def _sliced(node: ir.Node, index: int, channels: Channels) -> Step | None:
    rank, axes = rank_of(node.inputs[0]), constant_of(input_of(node, 3))
    if index != 0 or rank is None or axes is None:
        return None
    return None if {axis % rank - rank for axis in axes.tolist()} & set(channels.axes) else Step(channels)


def _weighed(node: ir.Node, index: int, channels: Channels) -> Step | None:
    """Follow the values of attention; the weights of a softmax add up to one, so that shifts pass too."""
    if index != 1 or -2 in channels.axes or constant_of(node.inputs[0]) is not None:
        return None
    rank = rank_of(node.inputs[0])
    if rank in (None, 1) or rank_of(node.inputs[1]) in (None, 1):
        return None  # a product with a vector has fewer axes
    producer = None if node.inputs[0] is None else node.inputs[0].producer()
    sums_to_one = (
        producer is not None
        and is_standard(producer, "Softmax")
        and attribute(producer, "axis", -1) in (-1, (rank or 0) - 1)
    )
    return Step(channels, shift=sums_to_one)


def _attended(node: ir.Node, index: int, channels: Channels) -> Step | None:
    if index != 2 or not plain_attention(node) or any(output.uses() for output in node.outputs[1:]):
        return None
    return Step(channels)


def plain_attention(node: ir.Node) -> bool:
    """Tell whether an Attention has as many heads of keys as of queries, and no memory of earlier tokens."""
    query, key = node.inputs[:2]
    if query is None or key is None or query.shape is None or key.shape is None:
        return False
    if len(query.shape) == 4:
        heads = isinstance(query.shape[1], int) and query.shape[1] == key.shape[1]
    else:
        heads = attribute(node, "q_num_heads", 0) == attribute(node, "kv_num_heads", 0)
    return heads and not any(name_of(input_of(node, index)) for index in (4, 5))


RULES: Mapping[str, Callable[[ir.Node, int, Channels], Step | None]] = {
    **dict.fromkeys(("Dropout", "Identity"), _same),
    **dict.fromkeys(("LeakyRelu", "PRelu", "Relu"), _homogeneous),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"), _pooled),
    **dict.fromkeys(("Add", "Sum"), _added),
    **dict.fromkeys(("Div", "Mul"), _multiplied),
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), _reshaped),
    "Attention": _attended,
    "Gather": _gathered,
    "MatMul": _weighed,
    "ReduceMean": _reduced,
    "Slice": _sliced,
    "Transpose": _transposed,
}
"""How channels pass through each operator that lets them."""
