"""Shapes of gradients: what is known of values, and computed at run time where that is not enough."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.autodiff.term import Term

Shape = tuple[int | str | None, ...]
"""A number, a name, or None (nothing known) for each axis."""

Numbers = Term | NDArray[Any]
"""Vectors: computed, or known already."""


def known_shape(term: Term) -> Shape | None:
    """Return what is known of the lengths of the axes; None where not even their number is."""
    shape = term.value.shape
    return None if shape is None else tuple(map(_length, shape))


def _length(found: int | ir.SymbolicDim) -> int | str | None:
    return found if isinstance(found, int) else found.value


def numbers(term: Term) -> tuple[int, ...] | None:
    """Return the shape if all of it is known."""
    shape = known_shape(term)
    if shape is None or not all(isinstance(one, int) for one in shape):
        return None
    return tuple(one for one in shape if isinstance(one, int))


def shape_of(term: Term) -> Numbers:
    """Return the shape as a vector: a constant if it is known, else computed."""
    known = numbers(term)
    return term.Shape() if known is None else np.array(known, np.int64)


def length_of(term: Term, axis: int) -> Numbers:
    """Return the length of one axis, counted from 0, as a vector with one element."""
    shape = known_shape(term)
    length = None if shape is None else shape[axis]
    if isinstance(length, int):
        return np.array([length], np.int64)
    return term.Shape(start=axis, end=axis + 1)


def lengths_behind(term: Term, first: int) -> Numbers:
    """Return the lengths of the axes from this one on, as a vector."""
    known = numbers(term)
    return term.Shape(start=first) if known is None else np.array(known[first:], np.int64)


def joined(*parts: Numbers) -> Numbers:
    """Return vectors one behind the other."""
    computed = [one for one in parts if isinstance(one, Term)]
    known = [one for one in parts if not isinstance(one, Term)]
    if not computed:
        return np.concatenate(known)
    first, *others = parts
    return (first if isinstance(first, Term) else computed[0].constant(first)).Concat(*others, axis=0)


def reshaped(term: Term, like: Term) -> Term:
    """Return the same elements in the shape of another term."""
    shape = numbers(like)
    if shape is not None and shape == numbers(term):
        return term
    return term.Reshape(shape_of(like), allowzero=1)


def expanded(term: Term, like: Term) -> Term:
    """Return the term repeated to the shape of another."""
    return term.Expand(shape_of(like))


def zeros(like: Term) -> Term:
    """Return zeros in the shape and type of another term."""
    return expanded(like.number(0), like)


def count_ratio(many: Term, few: Term) -> Term | float:
    """Return how many times as many elements one term has as another."""
    sizes = numbers(many), numbers(few)
    if sizes[0] is not None and sizes[1] is not None:
        return math.prod(sizes[0]) / max(math.prod(sizes[1]), 1)
    return (many.Size() / few.Size()).cast(many)


def summed(gradient: Term, to: Term, shape: Shape, full: Shape) -> Term:
    """Return the sum of what has the shape ``full`` over the axes along which ``to`` was repeated to it.

    Where an axis of ``to`` may have length 1 and nobody knows, that is looked at when the graph runs.
    """
    lead = len(full) - len(shape)
    pairs = list(zip(shape, full[lead:], strict=True))
    if any(not isinstance(one, int) and (one is None or one != other) for one, other in pairs):
        return _summed_at_run_time(gradient, to, lead)
    axes = [*range(lead), *(lead + i for i, (one, other) in enumerate(pairs) if one == 1 != other)]
    if lead == len(axes) > 0:
        return gradient.ReduceSum(np.array(axes), keepdims=0)
    total = gradient.sum(axes) if axes else gradient
    return total.Squeeze(np.arange(lead)) if lead else total


def _summed_at_run_time(gradient: Term, to: Term, lead: int) -> Term:
    shape = to.Shape()
    padded = shape.constant(np.ones(lead, np.int64)).Concat(shape, axis=0) if lead else shape
    axes = padded.Equal(1).NonZero().Reshape(np.array([-1]))
    return gradient.ReduceSum(axes, keepdims=1, noop_with_empty_axes=1).Reshape(shape, allowzero=1)
