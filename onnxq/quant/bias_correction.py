"""The mean of a linear layer's output, and how far rounding its weight moves it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.quant.encodings import Encoding

Array = NDArray[np.float64]


def mean_output(weight: NDArray[np.floating[Any]], mean: NDArray[np.floating[Any]]) -> Array:
    """Return the mean of each output channel, without the bias, shape (M,).

    It is exact where each tap of a kernel sees the channel's mean: everywhere but at padded borders.

    Args:
        weight: Shape (M, C / groups, ...): output channels, the inputs that each of them reads, taps.
        mean: The mean of each input channel, shape (C,).

    """
    channels = weight.shape[1]
    groups = len(mean) // channels
    taps = weight.astype(np.float64).reshape(*weight.shape[:2], -1).sum(axis=2)
    means: Array = taps.reshape(groups, -1, channels) @ mean.astype(np.float64).reshape(groups, channels, 1)
    return means.reshape(-1)


def rounding_error(weight: NDArray[np.float32], encoding: Encoding) -> Array:
    """Return what ``encoding`` restores of ``weight``, less ``weight``; any shape."""
    error: Array = encoding.restored(weight).astype(np.float64) - weight
    return error
