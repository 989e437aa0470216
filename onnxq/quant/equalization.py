"""Equalization: scales that give two layers in a row channels of equal weight, or activations even channels.

Source: Nagel et al., 2019, arXiv:1906.04721, section 4.1; Nagel et al., 2021, arXiv:2106.08295, section 3.1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


LEAST_REACH = 0.01
"""Channels that reach less far than this part of the widest count as if they did: on other data, they may."""


def largest_by_channel(weight: NDArray[np.floating[Any]], axis: int, groups: int = 1) -> Array:
    """Return the largest magnitude of each channel along ``axis``, shape (C,).

    Args:
        weight: Any shape.
        axis: The axis that counts the channels; of a grouped convolution's inputs, those of one group.
        groups: Into how many groups the rows of axis 0 fall, each with input channels of its own.

    """
    by_group = np.abs(weight).astype(np.float64).reshape(groups, -1, *weight.shape[1:])
    moved = np.moveaxis(by_group, axis % weight.ndim + 1, 1)
    largest: Array = moved.reshape(*moved.shape[:2], -1).max(axis=2, initial=0)
    return largest.reshape(-1)


def equalizing_scale(first: Array, second: Array) -> Array:
    """Return ``s`` with ``first / s == second * s``: what to divide the first layer by; shape (C,).

    Args:
        first: Shape (C,), >= 0; the largest weight of each output channel of the first layer.
        second: Shape (C,), >= 0; the largest weight that meets this channel in the second layer.

    Returns:
        ``sqrt(first * second) / second``, and 1 for a channel without weight on either side.

    """
    usable = (first > 0) & (second > 0)
    ratio = np.divide(first, second, out=np.ones_like(first), where=usable)
    scale: Array = np.sqrt(ratio)
    return scale


def evening_scale(largest: Array, alpha: float) -> Array:
    """Return ``largest^alpha``: divided by it, a channel reaches ``largest^(1 - alpha)``; shape (C,).

    Args:
        largest: Shape (C,), >= 0, finite; the largest magnitude of each channel.
        alpha: From 0, which changes nothing, to 1, which makes all channels reach equally far.

    Returns:
        Scales > 0; all 1 where all channels are zero.

    """
    widest = largest.max(initial=0)
    if widest == 0:
        return np.ones(largest.shape)
    scale: Array = np.maximum(largest, LEAST_REACH * widest) ** alpha
    return scale
