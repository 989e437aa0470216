"""Gradients of functions of one element that take more than a line, and of the softmax."""

from __future__ import annotations

import math
from functools import reduce

from onnxq.autodiff.step import Part, Step
from onnxq.autodiff.term import Term


def power(s: Step) -> Term:
    """Return ``g n x^(n - 1)``, without a power where n is 2."""
    exponent = s.constant(1)
    if exponent is not None and exponent.size == 1 and exponent.item() == 2:
        return s.g * s.x * 2.0
    n = s[1].cast(s.x)
    return s.g * n * s.x.Pow(n - 1.0)


def picked(s: Step, index: int) -> Term:
    """Return the gradient where the input is the one that was picked, in equal parts if there are several."""
    there = [s.y.Equal(s[one]).cast(s.y) for one in range(len(s.node.inputs))]
    return s.g * there[index] / there[0].Sum(*there[1:])


def clip(s: Step) -> Term:
    """Return the gradient between the bounds; what comes out tells, as ONNX Runtime fuses what goes in."""
    inside = [s.y > s[1]] if s.has(1) else []
    inside += [s.y < s[2]] if s.has(2) else []
    return s.g.masked(reduce(lambda a, b: a.And(b), inside)) if inside else s.g


def clip_bound(index: int) -> Part:
    """Return what adds up the gradient where this bound is what comes out."""

    def bound(s: Step) -> Term:
        beyond = s.x < s[1] if index == 1 else s.x > s[2]
        return s.g.masked(beyond).ReduceSum(keepdims=0)

    return bound


def hard_sigmoid(s: Step) -> Term:
    """Return alpha times the gradient on the slope."""
    return (s.g * float(s.attr("alpha", 0.2))).masked((s.y > 0).And(s.y < 1))


def hard_swish(s: Step) -> Term:
    """Return the gradient times ``(2 x + 3) / 6`` on the bend, and as it is behind it."""
    bend = (s.x * (1 / 3) + 0.5) * s.g
    return bend.where(s.x < 3, s.g).masked(s.x > -3)


def gelu(s: Step) -> Term:
    """Return the gradient times ``P(x) + x p(x)``, or the same of what tanh approximates it by."""
    x = s.x
    if s.attr("approximate", "none") == "tanh":
        factor = math.sqrt(2 / math.pi)
        t = ((x + x * x * x * 0.044715) * factor).Tanh()
        slope = (x * x * (3 * 0.044715) + 1.0) * factor
        return s.g * 0.5 * (1.0 + t + x * (1.0 - t * t) * slope)
    density = (x * x * -0.5).Exp() * (1 / math.sqrt(2 * math.pi))
    return s.g * ((x * math.sqrt(0.5)).Erf() * 0.5 + 0.5 + x * density)


def softmax(s: Step) -> Term:
    """Return ``y (g - sum(g y))``."""
    return s.y * (s.g - (s.g * s.y).sum([s.axis(-1)]))


def log_softmax(s: Step) -> Term:
    """Return ``g - exp(y) sum(g)``."""
    return s.g - s.y.Exp() * s.g.sum([s.axis(-1)])
