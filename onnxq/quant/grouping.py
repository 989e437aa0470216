"""Groups of embedding dimensions, each with a range of its own.

Source: Bondarenko et al., 2021, arXiv:2109.12948 (per-embedding-group quantization).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxq.quant.encoding import Encoding, affine_encoding

Order = Literal["range", "index"]
Groups = NDArray[np.intp]
Floats = NDArray[np.floating[Any]]
Doubles = NDArray[np.float64]


def group_channels(low: Floats, high: Floats, count: int, order: Order) -> Groups:
    """Return the group of each channel, shape (C,): 0 to ``count`` - 1, of equal sizes but for one channel.

    Args:
        low: Shape (C,); the smallest value of each channel.
        high: Shape (C,); the largest one.
        count: How many groups, at least 1; at most C of them have channels.
        order: ``range`` puts channels of similar range together, the narrowest first; ``index`` neighbours.

    """
    channels = low.size
    width = np.asarray(high, np.float64) - low if order == "range" else np.zeros(channels)
    groups = np.empty(channels, np.intp)
    groups[np.argsort(width, kind="stable")] = np.arange(channels) * min(count, channels) // channels
    return groups


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
