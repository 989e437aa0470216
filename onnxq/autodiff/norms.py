"""Gradients of normalizations.

With ``n`` for what is normalized over some axes, ``r`` for the reciprocal of its deviation and ``h`` for the
gradient times the scale, the gradient of the input is ``r (h - mean(h) - n mean(h n))``; without the mean of
``h`` where the mean of the input is not taken away.
"""

from __future__ import annotations

import numpy as np

from onnxq.autodiff.shapes import joined, length_of, reshaped
from onnxq.autodiff.step import NoGradientError, Part, Step
from onnxq.autodiff.term import Term


def layer_norm(s: Step) -> Term:
    """Return the gradient of what is normalized over the last axes."""
    n, r = s.once(_layer)
    return _through(s.g * s[1], n, r, _last_axes(s))


def rms_norm(s: Step) -> Term:
    """Return the gradient of what is divided by its root mean square over the last axes."""
    n, r = s.once(_root_mean_square)
    h = s.g * s[1]
    return (h - n * (h * n).mean(_last_axes(s))) * r


def scale_of_layer_norm(s: Step) -> Term:
    """Return the sum of the gradient times what is normalized."""
    return s.summed(s.g * s.once(_layer)[0], 1)


def scale_of_rms_norm(s: Step) -> Term:
    """Return the sum of the gradient times what is normalized."""
    return s.summed(s.g * s.once(_root_mean_square)[0], 1)


def _layer(s: Step) -> tuple[Term, Term]:
    return _normalized(s.x, _last_axes(s), _epsilon(s))


def _root_mean_square(s: Step) -> tuple[Term, Term]:
    r = ((s.x * s.x).mean(_last_axes(s)) + _epsilon(s)).Sqrt().Reciprocal()
    return s.x * r, r


def _last_axes(s: Step) -> range:
    return range(s.axis(-1), s.rank())


def _epsilon(s: Step) -> float:
    return float(s.attr("epsilon", 1e-5))


def _normalized(x: Term, axes: range, epsilon: float) -> tuple[Term, Term]:
    """Return x with mean 0 and variance 1 over the axes, and the reciprocal of its deviation."""
    centred = x - x.mean(axes)
    r = ((centred * centred).mean(axes) + epsilon).Sqrt().Reciprocal()
    return centred * r, r


def _through(h: Term, n: Term, r: Term, axes: range) -> Term:
    return (h - h.mean(axes) - n * (h * n).mean(axes)) * r


def group_norm(s: Step) -> Term:
    """Return the gradient of what is normalized over groups of channels, or over each channel."""
    n, r = s.once(_groups)
    h = _grouped(s, s.g * channelwise(s, s[1]))
    return reshaped(_through(h, n, r, range(2, 3)), s.x)


def scale_of_group_norm(s: Step) -> Term:
    """Return the sum of the gradient times what is normalized, for each channel."""
    return sum_of_channels(s.g * reshaped(s.once(_groups)[0], s.x), s.rank())


def _groups(s: Step) -> tuple[Term, Term]:
    return _normalized(_grouped(s, s.x), range(2, 3), _epsilon(s))


def _grouped(s: Step, term: Term) -> Term:
    """Return what has the shape of the input with the axes batch, group, and elements of a group."""
    groups = s.attr("num_groups")
    if groups is not None and s.shape(1) != (s.shape()[1],):
        raise NoGradientError("its scale is not known to have one element for each channel")
    first = length_of(s.x, 1) if groups is None else np.array([groups])
    return term.Reshape(joined(np.array([0]), first, np.array([-1])))


def batch_norm(s: Step) -> Term:
    """Return the gradient times what every element of a channel was multiplied by."""
    return s.g * channelwise(s, s[1] * s.once(_reciprocal))


def of_channels(part: Part) -> Part:
    """Return what adds up a part for each channel."""

    def summed(s: Step) -> Term | None:
        found = part(s)
        return None if found is None else sum_of_channels(found, s.rank())

    return summed


def batch_norm_scale(s: Step) -> Term:
    """Return the gradient times what is normalized, to be added up."""
    return s.g * (s.x - channelwise(s, s[3])) * channelwise(s, s.once(_reciprocal))


def batch_norm_mean(s: Step) -> Term:
    """Return the gradient times what every element of a channel was multiplied by, with its sign changed."""
    return -batch_norm(s)


def batch_norm_variance(s: Step) -> Term:
    """Return half the gradient times ``scale n r^2``, with its sign changed."""
    r = s.once(_reciprocal)
    return batch_norm_scale(s) * channelwise(s, s[1] * r * r * -0.5)


def _reciprocal(s: Step) -> Term:
    if s.attr("training_mode", 0):
        raise NoGradientError("it takes mean and variance of its input, as in training")
    return (s[4] + _epsilon(s)).Sqrt().Reciprocal()


def channelwise(s: Step, vector: Term) -> Term:
    """Return one number for each channel so that they meet axis 1 of the input."""
    return vector.Unsqueeze(np.arange(1, s.rank() - 1)) if s.rank() > 2 else vector


def sum_of_channels(term: Term, rank: int) -> Term:
    """Return the sum for each channel."""
    return term.ReduceSum(np.array([0, *range(2, rank)]), keepdims=0)
