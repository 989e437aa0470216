"""Gradients of poolings."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from onnxq.autodiff.shapes import expanded, joined, lengths_behind, reshaped, zeros
from onnxq.autodiff.step import NoGradientError, Step
from onnxq.autodiff.term import Term
from onnxq.autodiff.window import Window, back_through, window_of


def max_pool(s: Step) -> Term:
    """Return the elements of the gradient where the maxima were found, added up."""
    attributes = {key: one.value for key, one in s.node.attributes.items() if key != "storage_order"}
    names = [f"{s.op.base}_{part}" for part in ("again", "places")]
    _, found = s.op.several("MaxPool", s.x.value, names=names, **attributes)
    flat = np.array([-1])
    places = Term(s.op, found).Reshape(flat)
    back = zeros(s.x).Reshape(flat).ScatterElements(places, s.g.Reshape(flat), axis=0, reduction="add")
    return reshaped(back, s.x)


def global_max_pool(s: Step) -> Term:
    """Return the gradient where the maximum stands, in equal parts if there are several."""
    there = s.x.Equal(s.y).cast(s.x)
    return there * (s.g / there.sum(range(2, s.rank())))


def average_pool(s: Step) -> Term:
    """Return the gradient over the number of elements in a window, to every element in it."""
    window = _window(s)
    ones = s.x.number(1).Expand(np.array([1, 1, *window.kernel]))
    g, x = _one_channel(s.g), _one_channel(s.x)
    if s.attr("count_include_pad", 0):
        count: Term | float = float(math.prod(window.kernel))
    else:
        count = expanded(x.number(1), x).Conv(ones, **window.convolution())
    return reshaped(back_through(g / count, ones, window, x), s.x)


def _one_channel(term: Term) -> Term:
    """Return all channels as images of their own."""
    return term.Reshape(joined(np.array([-1, 1]), lengths_behind(term, 2)))


def _window(s: Step) -> Window:
    """Return the window of a pooling, with more zeros behind where the last one is not to be cut off."""
    window = window_of(s, tuple(s.attr("kernel_shape")))
    if not s.attr("ceil_mode", 0):
        return window
    lengths = s.shape()[2:]
    known = [one for one in lengths if isinstance(one, int)]
    if s.attr("count_include_pad", 0) or len(known) < len(lengths):
        raise NoGradientError("how many elements its last window counts is not known")
    return replace(
        window, behind=tuple(map(_reach, known, window.before, window.behind, window.span, window.strides))
    )


def _reach(length: int, before: int, behind: int, span: int, stride: int) -> int:
    """Return how many zeros behind the input the last window reads, of those that begin in what is there."""
    beyond = length + before + behind - span
    last = -(-beyond // stride) * stride
    if last >= length + before:
        last -= stride
    return last + span - length - before
