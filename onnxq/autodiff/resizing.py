"""Gradients of what is resized: what is interpolated along an axis is multiplied by a matrix."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxq.autodiff.moving import moved_back
from onnxq.autodiff.shapes import joined, length_of
from onnxq.autodiff.step import NoGradientError, Step
from onnxq.autodiff.term import Term

SCALES, SIZES = 2, 3


def resize(s: Step) -> Term:
    """Return the elements of the gradient where they came from, or multiplied by what they were.

    Raises:
        NoGradientError: It crops, and interpolates.

    """
    if s.attr("mode", "nearest") == "nearest":
        return moved_back(s, ir.DataType.INT32)
    if s.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise NoGradientError("it crops and interpolates")
    found = s.g
    for place, axis in enumerate(s.attr("axes") or range(s.rank())):
        before, after = s.shape()[axis], s.output_shape()[axis]
        if before == after or (axis == 0 and not isinstance(before, int)):
            continue  # ONNX Runtime interpolates along no batch
        found = _along(axis % s.rank(), s.rank(), found, _matrix(s, axis, place))
    return found


def _along(axis: int, rank: int, term: Term, matrix: Term) -> Term:
    """Multiply along one axis."""
    order = list(range(rank))
    order[axis], order[-1] = order[-1], order[axis]
    if axis == rank - 1:
        return term @ matrix
    return (term.Transpose(perm=order) @ matrix).Transpose(perm=order)


def _matrix(s: Step, axis: int, place: int) -> Term:
    """Return what the axis was multiplied by, of shape (after, before): the unit matrix, resized."""
    length = length_of(s.x, axis)
    square = joined(length, length)
    shape = square if isinstance(square, Term) else s.x.constant(square)
    unit = shape.ConstantOfShape().EyeLike(dtype=ir.DataType.FLOAT).Unsqueeze(np.array([0, 1]))
    attributes = {key: one.value for key, one in s.node.attributes.items() if key != "axes"}
    kind = SIZES if s.has(SIZES) else SCALES
    own = s[kind].Slice(np.array([place]), np.array([place + 1]))
    if kind == SIZES:
        resized = unit.Resize(None, None, joined(np.array([1, 1]), own, length), **attributes)
    else:
        ones = np.ones(2, np.float32)
        resized = unit.Resize(None, joined(ones, own, ones[:1]), **attributes)
    return resized.Squeeze(np.array([0, 1])).cast(s.g)
