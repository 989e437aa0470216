"""Padding: which parts of a value belong to tokens that ``attention_mask`` leaves out.

The mask says which of the T tokens of each of the B samples are real. Where tokens sit in another value is
found by watching sizes: the first padded batch is run once more, one token shorter (and, where the batch size
is free, with one sample), and the axes that shrink with it are token axes. So an axis that merely happens to
be T long is not mistaken for one. Where the model fixes T, or does not run one token shorter, every axis of
length T counts.

Values are understood as (B, ..., T, ...), with any number of token axes (attention scores have two), or as
(B*T, ...). Other values, such as pooled ones, are taken whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.errors import ModelError
from onnxq.runtime.batch import Feeds
from onnxq.runtime.session import Session

MASK_INPUT = "attention_mask"
"""The input that marks padding: shape (B, T), zero for positions that are none of the sample's."""

Keep = NDArray[np.bool_]
Shape = tuple[int, ...]
Axes = tuple[int | str | None, ...]
"""A shape in which some axes have a name, or none."""


@dataclass(frozen=True)
class TokenAxes:
    """Where the tokens of a value are.

    Args:
        axes: Its token axes; axis 0 is the batch. Empty: the value has no tokens.
        folded: Its axis 0 is B*T; ``axes`` is then ``(1,)``, as after splitting axis 0.

    """

    axes: tuple[int, ...]
    folded: bool = False


def padding(feeds: Feeds) -> Keep | None:
    """Return which tokens are real, shape (B, T), or None if all are."""
    mask = feeds.get(MASK_INPUT)
    if mask is None or mask.ndim != 2:
        return None
    keep: Keep = mask != 0
    return None if keep.all() else keep


def find_token_axes(session: Session, feeds: Feeds, shapes: Mapping[str, Shape]) -> dict[str, TokenAxes]:
    """Return the token axes of each value.

    Args:
        session: Returns the values when it is run.
        feeds: A batch with ``attention_mask``.
        shapes: The shapes that the values have in this batch.

    """
    size = feeds[MASK_INPUT].shape
    shorter = _one_token_less(session, feeds)
    if shorter is None:
        return {name: _axes_by_size(shape, size) for name, shape in shapes.items()}
    try:
        small: Mapping[str, Any] = shorter | session.run(shorter)
    except ModelError:  # the model accepts some lengths only
        return {name: _axes_by_size(shape, size) for name, shape in shapes.items()}
    sizes = (size, shorter[MASK_INPUT].shape)
    return {name: _axes_by_growth((shape, small[name].shape), sizes) for name, shape in shapes.items()}


def without_padding(values: NDArray[Any], where: TokenAxes, keep: Keep) -> Iterator[NDArray[Any]]:
    """Yield the real part of each sample, shape (1, ...); samples without any token are left out.

    Args:
        values: One batch of a value.
        where: Its token axes.
        keep: Which tokens are real, shape (B, T).

    """
    if where.folded:
        values = values.reshape(*keep.shape, *values.shape[1:])
    for sample, kept in zip(values, keep, strict=True):
        if kept.any():
            yield _real_part(sample[np.newaxis], where.axes, np.flatnonzero(kept))


def reality(shape: Shape, where: TokenAxes, keep: Keep) -> NDArray[np.float32]:
    """Return an array of this shape, 0 where an element belongs to padding, and 1 elsewhere.

    Args:
        shape: That of one batch of a value.
        where: Its token axes.
        keep: Which tokens are real, shape (B, T).

    """
    real = np.ones((*keep.shape, *shape[1:]) if where.folded else shape, np.float32)
    for axis in where.axes:
        spread = [1] * real.ndim
        spread[0], spread[axis] = keep.shape
        real *= keep.reshape(spread)
    return real.reshape(shape)


def _real_part(sample: NDArray[Any], axes: tuple[int, ...], tokens: NDArray[np.intp]) -> NDArray[Any]:
    """Keep ``tokens`` along each axis; a view where they follow each other."""
    in_a_row = tokens[-1] - tokens[0] == len(tokens) - 1
    wanted: Any = slice(tokens[0], tokens[-1] + 1) if in_a_row else tokens
    for axis in axes:
        sample = sample[(slice(None),) * axis + (wanted,)]
    return sample


def _axes_by_size(shape: Shape, size: Shape) -> TokenAxes:
    batch, tokens = size
    if shape and shape[0] != batch:
        return TokenAxes((1,), folded=True) if shape[0] == batch * tokens else TokenAxes(())
    return TokenAxes(tuple(axis for axis in range(1, len(shape)) if shape[axis] == tokens))


def _axes_by_growth(shapes: tuple[Shape, Shape], sizes: tuple[Shape, Shape]) -> TokenAxes:
    """Compare the two shapes of a value with the two sizes (B, T) of the mask."""
    (batch, tokens), (small_batch, small_tokens) = sizes
    if len(shapes[0]) != len(shapes[1]) or not shapes[0]:
        return TokenAxes(())
    first, *others = zip(*shapes, strict=True)
    if first == (batch * tokens, small_batch * small_tokens):
        return TokenAxes((1,), folded=True)
    if first != (batch, small_batch):
        return TokenAxes(())
    return TokenAxes(tuple(axis for axis, pair in enumerate(others, 1) if pair == (tokens, small_tokens)))


def cut(
    feeds: Feeds, shapes: Mapping[str, Axes], samples: slice, tokens: int | None
) -> dict[str, NDArray[Any]]:
    """Return the feeds of some samples, with their first tokens.

    Args:
        feeds: A batch with ``attention_mask``.
        shapes: The inputs' shapes in the model, where axes of the same name go together.
        samples: Which ones.
        tokens: How many; None for all.

    """
    batch_axis, token_axis = shapes[MASK_INPUT]
    whole = feeds[MASK_INPUT].shape[1]

    def part(array: NDArray[Any], shape: Axes) -> NDArray[Any]:
        """Cut the axes that go with those of the mask."""
        if array.ndim and shape[0] == batch_axis:
            array = array[samples]
        for axis in range(1, array.ndim):
            if shape[axis] == token_axis and array.shape[axis] == whole:
                array = array[(slice(None),) * axis + (slice(tokens),)]
        return np.ascontiguousarray(array)

    return {name: part(array, shapes[name]) for name, array in feeds.items() if name in shapes}


def _one_token_less(session: Session, feeds: Feeds) -> dict[str, NDArray[Any]] | None:
    """Cut one token off every input that has them; None where the model's inputs have fixed lengths."""
    shapes = {spec.name: spec.shape for spec in session.inputs}
    batch_axis, token_axis = shapes.get(MASK_INPUT) or (None, None)
    tokens = feeds[MASK_INPUT].shape[1]
    if isinstance(token_axis, int) or tokens < 2:
        return None
    samples = slice(None) if isinstance(batch_axis, int) else slice(1)
    return cut(feeds, shapes, samples, tokens - 1)
