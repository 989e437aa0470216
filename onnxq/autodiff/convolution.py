"""Gradients of convolutions: one is a transposed convolution, the other one over the batch."""

from __future__ import annotations

import numpy as np

from onnxq.autodiff.norms import sum_of_channels
from onnxq.autodiff.shapes import joined, length_of, lengths_behind
from onnxq.autodiff.step import Step
from onnxq.autodiff.term import Term
from onnxq.autodiff.window import Window, back_through, window_of


def input_of_conv(s: Step) -> Term:
    """Return the gradient of what is convolved."""
    return back_through(s.g, s[1], window_of(s, s.shape(1)[2:]), s.x)


def weight_of_conv(s: Step) -> Term:
    """Return the gradient of the weight, of shape (M, C / groups, ...)."""
    return _weight(s.x, s.g, window_of(s, s.shape(1)[2:]), s[1])


def bias_of_conv(s: Step) -> Term:
    """Return the sum of the gradient for each channel."""
    return sum_of_channels(s.g, s.rank())


def input_of_transposed(s: Step) -> Term:
    """Return the gradient of the input of a ConvTranspose: a convolution."""
    window = window_of(s, s.shape(1)[2:], transposed=True)
    return s.g.Conv(s[1], **window.convolution())


def weight_of_transposed(s: Step) -> Term:
    """Return the gradient of its weight: that of the convolution that it is the transpose of."""
    return _weight(s.g, s.x, window_of(s, s.shape(1)[2:], transposed=True), s[1])


def _weight(x: Term, g: Term, window: Window, weight: Term) -> Term:
    """Return the gradient of a convolution's weight: the input, with g as a kernel of one image each.

    Batch and channels change places, strides and dilations too. Where the stride left elements over, more
    comes out than the kernel has, at the end.
    """
    swapped = [1, 0, *range(2, 2 + len(window.kernel))]
    turned = Window((), window.dilations, window.strides, window.before, window.behind, window.groups)
    images = _batch_last(x, weight, window.groups).Transpose(perm=swapped)
    found = images.Conv(g.Transpose(perm=swapped), **turned.convolution()).Transpose(perm=swapped)
    if max(window.strides) == 1:
        return found
    axes = np.arange(len(window.kernel)) + 2
    return found.Slice(np.zeros_like(axes), np.array(window.kernel), axes)


def _batch_last(x: Term, weight: Term, groups: int) -> Term:
    """Return (N, groups C, ...) as (groups N, C, ...)."""
    if groups == 1:
        return x
    each, zero, rest = length_of(weight, 1), np.array([0]), np.array([-1])
    parts = x.Reshape(joined(zero, np.array([groups]), each, rest)).Transpose(perm=[1, 0, 2, 3])
    return parts.Reshape(joined(rest, each, lengths_behind(x, 2)))
