"""Gradients of what is rounded to integers: straight through, and of the scale as if it were not rounded.

With ``q`` for the integers less the zero point and ``i`` for where nothing saturates, QuantizeLinear and
DequantizeLinear together give x the gradient ``g i``, and the scale ``sum(g (q - i x / scale))``.
"""

from __future__ import annotations

import numpy as np

from onnxq.autodiff.step import NoGradientError, Step
from onnxq.autodiff.term import Term


def quantized(s: Step) -> Term:
    """Return the gradient over the scale, where nothing saturates."""
    return (s.g / _scale(s)).masked(s.once(_inside))


def scale_of_quantized(s: Step) -> Term:
    """Return the sum of ``-g x / scale^2`` where nothing saturates."""
    scale = _scale(s)
    return _to_scale(s, (-(s.g * s.x / (scale * scale))).masked(s.once(_inside)))


def dequantized(s: Step) -> Term:
    """Return the gradient times the scale."""
    return s.g * _scale(s)


def scale_of_dequantized(s: Step) -> Term:
    """Return the sum of the gradient times the integers."""
    return _to_scale(s, s.g * _integers(s, s.x))


def _inside(s: Step) -> Term:
    """Return where x lies within half a step of what it was rounded to: what saturates lies farther away."""
    return (s.x / _scale(s) - _integers(s, s.y)).Abs() <= 0.5


def _integers(s: Step, stored: Term) -> Term:
    """Return the integers less their zero point, as floats."""
    number = stored.cast(s[1])
    return number - _along(s, s[2].cast(s[1])) if s.has(2) else number


def _scale(s: Step) -> Term:
    return _along(s, s[1])


def _along(s: Step, vector: Term) -> Term:
    """Return one number for each channel so that they meet the channel axis."""
    if s.attr("block_size", 0):
        raise NoGradientError("its scales are those of blocks")
    channel = _channel(s)
    behind = 0 if channel is None else s.rank() - 1 - channel
    return vector.Unsqueeze(np.arange(1, behind + 1)) if behind else vector


def _channel(s: Step) -> int | None:
    """Return the channel axis; None where there is one scale."""
    return None if s.shape(1) in ((), (1,)) else s.axis(1)


def _to_scale(s: Step, term: Term) -> Term:
    """Return the sum of what has the shape of x for each element of the scale."""
    axes = [axis for axis in range(s.rank()) if axis != _channel(s)]
    return s.as_input(term.ReduceSum(np.array(axes), keepdims=0), 1)
