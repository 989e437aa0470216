"""A window that moves over axes, as convolutions and poolings have it: gradients go through its transpose."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxq.autodiff.shapes import joined, known_shape, numbers
from onnxq.autodiff.step import NoGradientError, Step
from onnxq.autodiff.term import Term


@dataclass(frozen=True)
class Window:
    """How a window lies and moves; one number for each axis behind batch and channels.

    Args:
        kernel: How many elements it reads.
        strides: How far it moves.
        dilations: How far its elements are apart.
        before: How many zeros stand before the input.
        behind: How many stand behind it.
        groups: In how many groups the channels are.

    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    behind: tuple[int, ...]
    groups: int = 1

    @property
    def span(self) -> tuple[int, ...]:
        """How many elements it covers."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def reads_each_once(self) -> bool:
        """Whether it reads one element at a time, and every one."""
        return {*self.kernel, *self.strides} == {1} and not any((*self.before, *self.behind))

    def convolution(self, *, pads: bool = True) -> dict[str, Any]:
        """Return the attributes of a Conv or ConvTranspose."""
        both = [*self.before, *self.behind] if pads else None
        steps = {"strides": list(self.strides), "dilations": list(self.dilations)}
        return {**steps, "pads": both, "group": self.groups}


def window_of(s: Step, kernel: tuple[int | str | None, ...], *, transposed: bool = False) -> Window:
    """Return the window of a node with a kernel of this size.

    Raises:
        NoGradientError: Where it lies depends on lengths that are not known.

    """
    known = tuple(one for one in kernel if isinstance(one, int))
    if len(known) < len(kernel):
        raise NoGradientError("the size of its kernel is not known")
    ones = [1] * len(known)
    strides, dilations = tuple(s.attr("strides", ones)), tuple(s.attr("dilations", ones))
    pads = tuple(s.attr("pads", [0] * 2 * len(known)))
    bare = Window(known, strides, dilations, pads[: len(known)], pads[len(known) :], s.attr("group", 1))
    mode = s.attr("auto_pad", "NOTSET")
    if mode == "VALID":
        return _padded(bare, [0] * len(known), upper=True)
    if mode == "NOTSET" and s.attr("output_shape") is None:
        return bare
    lengths = zip(s.shape()[2:], bare.span, strides, strict=True)
    totals = _transposed(s, bare) if transposed else [_same(*one) for one in lengths]
    return _padded(bare, totals, upper=mode == "SAME_UPPER")


def _transposed(s: Step, bare: Window) -> list[int]:
    """Return how much of what a ConvTranspose computes is cut off, to leave what is asked for."""
    lengths = [one for one in s.shape()[2:] if isinstance(one, int)]
    more = s.attr("output_padding", [0] * len(bare.kernel))
    if len(lengths) < len(bare.kernel):
        raise NoGradientError("what it cuts off depends on a length that is not known")
    full = [
        stride * (length - 1) + one + span
        for length, stride, one, span in zip(lengths, bare.strides, more, bare.span, strict=True)
    ]
    asked = s.attr("output_shape") or [n * stride for n, stride in zip(lengths, bare.strides, strict=True)]
    return [max(one - other, 0) for one, other in zip(full, asked[-len(full) :], strict=True)]


def _same(length: int | str | None, span: int, stride: int) -> int:
    """Return how many zeros there must be so that the window stands at every ``stride``-th element."""
    if stride == 1:
        return span - 1
    if not isinstance(length, int):
        raise NoGradientError("its pads depend on a length that is not known")
    return max((-(-length // stride) - 1) * stride + span - length, 0)


def _padded(bare: Window, totals: list[int], *, upper: bool) -> Window:
    less, more = tuple(one // 2 for one in totals), tuple(one - one // 2 for one in totals)
    before, behind = (less, more) if upper else (more, less)
    return Window(bare.kernel, bare.strides, bare.dilations, before, behind, bare.groups)


def back_through(gradient: Term, weight: Term, window: Window, like: Term) -> Term:
    """Return the gradient of what a window was moved over, in the shape of ``like``."""
    shape = numbers(weight)
    if shape is not None and _can_turn(window):
        return _turned_round(gradient, weight, shape, window)
    lengths = (known_shape(like) or ())[2:]
    left = [_left_over(*one) for one in zip(lengths, _sides(window), window.strides, strict=True)]
    if None not in left:
        return gradient.ConvTranspose(weight, output_padding=left, **window.convolution())
    full = gradient.ConvTranspose(weight, **window.convolution(pads=False))
    before = np.array([0, 0, *window.before])
    behind = like.Shape() - full.Shape() + before
    return full.Pad(joined(-before, behind))


def _can_turn(window: Window) -> bool:
    """Tell whether it moves by single steps and always reads some of the input."""
    pads = zip(window.before, window.behind, window.span, strict=True)
    return max(window.strides) == 1 and all(max(b, e) < span for b, e, span in pads)


def _turned_round(gradient: Term, weight: Term, shape: tuple[int, ...], window: Window) -> Term:
    """Return the same for steps of 1, as a convolution: its kernels are faster than the transpose's."""
    outputs, inputs, *kernel = shape
    groups, axes = window.groups, np.arange(2, len(shape))
    split = weight.Reshape(np.array([groups, outputs // groups, inputs, *kernel]))
    swapped = split.Transpose(perm=[0, 2, 1, *range(3, len(shape) + 1)])
    turned = swapped.Reshape(np.array([groups * inputs, outputs // groups, *kernel]))
    if max(kernel) > 1:
        last, beyond = np.full_like(axes, -1), np.full_like(axes, -max(kernel) - 1)
        turned = turned.Slice(last, beyond, axes, last)
    before, behind = (
        tuple(span - 1 - pad for span, pad in zip(window.span, pads, strict=True))
        for pads in (window.before, window.behind)
    )
    return gradient.Conv(turned, **replace(window, before=before, behind=behind).convolution())


def _sides(window: Window) -> list[int]:
    """Return how much longer the padded input is than the window, less the input itself."""
    return [b + e - span for b, e, span in zip(window.before, window.behind, window.span, strict=True)]


def _left_over(length: int | str | None, side: int, stride: int) -> int | None:
    """Return how many elements behind the last window nobody reads; None if that is not known."""
    if stride == 1:
        return 0
    return (length + side) % stride if isinstance(length, int) else None
