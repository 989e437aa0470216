"""Groups of embedding dimensions, each with a range of its own.

Source: Bondarenko et al., 2021, arXiv:2109.12948 (per-embedding-group quantization).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxq.quant.encodings import Encoding, affine_encoding

Order = Literal["range", "index"]
Sizes = Literal["equal", "fitted"]
Groups = NDArray[np.intp]
Floats = NDArray[np.floating[Any]]
Doubles = NDArray[np.float64]


def group_channels(low: Floats, high: Floats, count: int, order: Order, sizes: Sizes = "equal") -> Groups:
    """Return the group of each channel, shape (C,).

    Args:
        low: Shape (C,); the smallest value of each channel.
        high: Shape (C,); the largest one.
        count: How many groups, at least 1; at most C of them have channels.
        order: ``range`` puts channels of similar range together, the narrowest first; ``index`` neighbours.
        sizes: ``equal`` but for one channel; ``fitted``: cut where the expected error is smallest.

    """
    channels = low.size
    width = np.asarray(high, np.float64) - low if order == "range" else np.zeros(channels)
    places = np.argsort(width, kind="stable")
    groups = np.empty(channels, np.intp)
    if sizes == "equal":
        groups[places] = np.arange(channels) * min(count, channels) // channels
    else:
        groups[places] = _fitted(np.asarray(low)[places], np.asarray(high)[places], min(count, channels))
    return groups


def expected_error(low: Floats, high: Floats, groups: Groups) -> float:
    """Return the squared error of all channels on the grids of their groups, up to a factor.

    Rounding errs by a twelfth of the squared step, and steps are parts of a group's range, with zero in it.
    """
    lows, highs = group_ranges(np.minimum(low, 0), np.maximum(high, 0), groups)
    return float(np.square(highs - lows).sum())


def _fitted(low: Floats, high: Floats, count: int) -> Groups:
    """Cut the channels as they lie into ``count`` groups of the least expected error.

    Source:
        Optimal cuts by dynamic programming: Fisher, 1958, "On grouping for maximum homogeneity".

    """
    errors = _errors(low, high)
    best, cuts = errors[0], []
    for _ in range(count - 1):
        through = best[:-1, np.newaxis] + errors[1:]  # the last group starts at 1, 2, ...
        cuts.append(through.argmin(axis=0) + 1)
        best = through.min(axis=0)
    groups, end = np.zeros(low.size, np.intp), low.size
    for starts in reversed(cuts):
        end = int(starts[end - 1])
        groups[end:] += 1
    return groups


def _errors(low: Floats, high: Floats) -> Doubles:
    """Return the expected error of the channels from a first to a last one as one group, shape (C, C)."""
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    errors = np.full((low.size, low.size), np.inf)
    for first in range(low.size):
        width = np.maximum.accumulate(high[first:]) - np.minimum.accumulate(low[first:])
        errors[first, first:] = np.square(width, dtype=np.float64) * np.arange(1, width.size + 1)
    return errors


def group_ranges(low: Floats, high: Floats, groups: Groups) -> tuple[Doubles, Doubles]:
    """Return the smallest and the largest value of each channel's group, two arrays of shape (C,)."""
    lows, highs = np.full(groups.max() + 1, np.inf), np.full(groups.max() + 1, -np.inf)
    np.minimum.at(lows, groups, low)
    np.maximum.at(highs, groups, high)
    return lows[groups], highs[groups]


def group_encoding(low: Floats, high: Floats, groups: Groups, dtype: str, axis: int) -> Encoding:
    """Return the encoding along ``axis`` in which the channels of a group share scale and zero point."""
    return affine_encoding(*group_ranges(low, high, groups), dtype, axis)


def group_scales(low: Floats, high: Floats, groups: Groups, *, shift: bool) -> tuple[Doubles, Doubles | None]:
    """Return the scale and the shift with which all groups fill the same range.

    With the shift, one scale and one zero point for the whole tensor then stand for the same grids as one
    of each for every group. Without, a group's scale is its largest magnitude.

    Args:
        low: Shape (C,); the smallest value of each channel.
        high: Shape (C,); the largest one.
        groups: Shape (C,); the group of each channel.
        shift: Whether the middle of each group's range is moved to zero.

    Returns:
        The scale, shape (C,), at most 1; groups of zeros keep 1. The shift, shape (C,), or None.

    """
    lows, highs = group_ranges(low, high, groups)
    widest = (highs - lows) / 2 if shift else np.maximum(np.abs(lows), np.abs(highs))
    largest = widest.max(initial=0)
    scale = np.where(widest > 0, widest / (largest or 1), 1.0)
    return scale, (lows + highs) / 2 if shift else None
