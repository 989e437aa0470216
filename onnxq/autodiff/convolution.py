"""Gradients of convolutions: of the input a transposed convolution, of the weight a product."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from onnxq.autodiff.norms import sum_of_channels
from onnxq.autodiff.shapes import joined, known_shape, length_of, lengths_behind, numbers
from onnxq.autodiff.step import NoGradientError, Step
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
    """Return the gradient of a convolution's weight: a product, summed over positions and the batch.

    One factor is g, the other the input as the window sees it: what the weight meets, at each position.
    """
    shape = numbers(weight)
    if shape is None:
        raise NoGradientError("the shape of its weight is not known")
    if shape[1] == 1:
        return _weight_of_one_channel(x, g, window, shape)
    rows, columns = shape[0] // window.groups, math.prod(shape[1:])
    seen = _seen(x, window)
    parts = joined(length_of(x, 0), np.array([window.groups, columns, -1]))
    columns_last = seen.Reshape(parts).Transpose(perm=[0, 1, 3, 2])
    product = g.Reshape(np.array([0, window.groups, rows, -1])) @ columns_last
    one = (known_shape(product) or (None,))[0] == 1
    return (product if one else product.ReduceSum(np.array([0]), keepdims=0)).Reshape(np.array(shape))


def _weight_of_one_channel(x: Term, g: Term, window: Window, shape: tuple[int, ...]) -> Term:
    """Return the same where an output reads one channel: a convolution of the input with the gradient.

    Samples are its channels, so that it adds them up; what the window's strides leave over is cut off.
    What the window sees, written out, would be larger than the input by the size of the kernel.
    """
    swapped = [1, 0, *range(2, len(shape))]
    channels = x.Transpose(perm=swapped).Reshape(joined(np.array([1, -1]), lengths_behind(x, 2)))
    moved = replace(window, strides=window.dilations, dilations=window.strides)
    found = channels.Conv(g.Transpose(perm=swapped), **moved.convolution())
    if max(window.strides) > 1:
        axes = np.arange(2, len(shape))
        found = found.Slice(np.zeros_like(axes), np.array(shape[2:]), axes)
    return found.Reshape(np.array(shape))


def _seen(x: Term, window: Window) -> Term:
    """Return (N C, K, ...): the K elements that a window reads of each channel, at each of its positions."""
    if window.reads_each_once:
        return x
    size = math.prod(window.kernel)
    unit = x.constant(np.eye(size, dtype=np.float32).reshape(size, 1, *window.kernel)).cast(x)
    channels = x.Reshape(joined(np.array([-1, 1]), lengths_behind(x, 2)))
    return channels.Conv(unit, **replace(window, groups=1).convolution())
