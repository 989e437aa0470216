"""Gradients of operators that move elements: what went somewhere comes back from there."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnxq.autodiff.shapes import length_of, numbers, reshaped, shape_of, zeros
from onnxq.autodiff.step import NoGradientError, Step
from onnxq.autodiff.term import Term


def transpose(s: Step) -> Term:
    """Return the gradient with the axes put back."""
    order = s.attr("perm") or range(s.rank())[::-1]
    return s.g.Transpose(perm=[int(axis) for axis in np.argsort(order)])


def concat(s: Step, index: int) -> Term:
    """Return the slice of the gradient that comes from this input."""
    axis = s.axis(0, index)
    lengths = [length_of(s[place], axis) for place in range(index + 1)]
    start = sum(lengths[:-1], np.array([0]))
    return s.g.Slice(start, start + lengths[-1], np.array([axis]))


def split(s: Step) -> Term:
    """Return the gradients of the parts, one behind the other."""
    first, *others = (s.gradient(index) for index in range(len(s.node.outputs)))
    return first.Concat(*others, axis=s.attr("axis", 0))


def slice_(s: Step) -> Term:
    """Return the gradient between zeros; where it is not known how many, put back element by element."""
    pads = _pads_of_slice(s)
    if pads is None:
        return moved_back(s)
    return s.g.Pad(np.array(pads, np.int64))


def _pads_of_slice(s: Step) -> list[int] | None:
    """Return how many elements a slice leaves out before and behind, by axes; None if that is not known."""
    starts, ends, axes, steps = (s.constant(index) for index in range(1, 5))
    unknown = starts is None or ends is None or (axes is None and s.has(3)) or (steps is None and s.has(4))
    if unknown or (steps is not None and (steps != 1).any()):
        return None
    before, behind = [0] * s.rank(), [0] * s.rank()
    for place, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        axis = place if axes is None else int(axes[place])
        length = s.shape()[axis]
        if not isinstance(length, int):
            return None
        first, last, _ = slice(start, end).indices(length)
        before[axis], behind[axis] = first, length - max(first, last)
    return before + behind


def pad(s: Step) -> Term:
    """Return the gradient without what was padded; where elements were repeated, their sum."""
    if s.attr("mode", "constant") != "constant":
        return moved_back(s)
    axes = [s[3]] if s.has(3) else []
    return s.g.Pad(-s[1], None, *axes)


def padded_value(s: Step) -> Term:
    """Return the sum of the gradient over what was padded."""
    return s.as_input(s.g.ReduceSum(keepdims=0) - pad(s).ReduceSum(keepdims=0), 2)


def gather(s: Step) -> Term:
    """Return the rows of the gradient, added up where they were read."""
    axis, places = s.axis(0), s.rank(1)
    order = [axis, *(one for one in range(s.rank()) if one != axis)]
    there = list(range(axis, axis + places))
    behind = [one for one in range(s.rank() - 1 + places) if one not in there]
    rows = s.g.Transpose(perm=there + behind) if axis else s.g
    table = zeros(s.x.Transpose(perm=order) if axis else s.x)
    summed = table.ScatterND(s[1].to(ir.DataType.INT64).Unsqueeze(np.array([-1])), rows, reduction="add")
    return summed.Transpose(perm=[int(one) for one in np.argsort(order)]) if axis else summed


def gather_elements(s: Step) -> Term:
    """Return the elements of the gradient, added up where they were read."""
    return zeros(s.x).ScatterElements(s[1], s.g, axis=s.attr("axis", 0), reduction="add")


def gather_nd(s: Step) -> Term:
    """Return the slices of the gradient, added up where they were read."""
    if s.attr("batch_dims", 0):
        raise NoGradientError("it has axes of a batch")
    return zeros(s.x).ScatterND(s[1], s.g, reduction="add")


def top_k(s: Step) -> Term:
    """Return the elements of the gradient where they were found."""
    return zeros(s.x).ScatterElements(s.output(1), s.g, axis=s.attr("axis", -1))


def moved_back(s: Step, dtype: ir.DataType = ir.DataType.INT64) -> Term:
    """Return the gradient of an operator that only moves elements, or repeats them, added up.

    The numbers of the elements, in a type that the operator takes, are moved like the elements themselves,
    and so tell where each comes from.
    """
    inputs = [s[index] if s.has(index) else None for index in range(1, len(s.node.inputs))]
    attributes = {key: one.value for key, one in s.node.attributes.items()}
    moved = getattr(_numbered(s.x).to(dtype), s.node.op_type)(*inputs, **attributes)
    flat = zeros(s.x).Reshape(np.array([-1]))
    back = flat.ScatterElements(
        moved.Reshape(np.array([-1])).to(ir.DataType.INT64),
        s.g.Reshape(np.array([-1])),
        axis=0,
        reduction="add",
    )
    return reshaped(back, s.x)


def _numbered(term: Term) -> Term:
    """Return the numbers of a term's elements, in its shape."""
    shape = numbers(term)
    if shape is not None:
        return term.constant(np.arange(math.prod(shape)).reshape(shape))
    size = term.Size()
    first, step = (size.constant(np.array(number)) for number in (0, 1))
    return first.Range(size, step).Reshape(shape_of(term), allowzero=1)
