"""Gradients of sums, means and the like over axes."""

from __future__ import annotations

from onnxq.autodiff.shapes import expanded
from onnxq.autodiff.step import Part, Step
from onnxq.autodiff.term import Term


def kept(s: Step, term: Term) -> Term:
    """Return what has the shape of the output with the axes that were taken away, at length 1."""
    return term if s.attr("keepdims", 1) or not s.has(1) else term.Unsqueeze(s[1])


def spread(part: Part) -> Part:
    """Return what gives every element that was reduced the same share."""
    return lambda s: expanded(kept(s, _of(part(s))), s.x)


def reduced_by(factor: Part) -> Part:
    """Return what gives every element that was reduced the gradient, times a factor of its own."""
    return lambda s: _of(factor(s)) * kept(s, s.g)


def extreme(s: Step) -> Term:
    """Return the gradient where the extreme value stands, in equal parts if there are several."""
    there = s.x.Equal(kept(s, s.y)).cast(s.x)
    times = there.ReduceSum(*([s[1]] if s.has(1) else []), keepdims=s.attr("keepdims", 1))
    return there * kept(s, s.g / times)


def _of(term: Term | None) -> Term:
    assert term is not None
    return term
