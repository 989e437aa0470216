"""Sums of products of 8-bit integers: int32, in steps of input scale times weight scale."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST_BIAS = 2.0**30
"""Half of what int32 holds: the other half is for the sum that the bias is added to."""


def accumulator_steps(activation: NDArray[Any], weight: NDArray[Any]) -> NDArray[np.float32]:
    """Return the product of two scales; where it vanishes in float32, the smallest that does not."""
    steps = activation.astype(np.float64) * weight
    with np.errstate(over="ignore"):
        held: NDArray[np.float32] = np.maximum(steps, np.finfo(np.float32).tiny).astype(np.float32)
    return held


def holds_bias(bias: NDArray[Any], steps: NDArray[np.float32]) -> bool:
    """Tell whether int32 holds a bias in these steps, as they broadcast; infinite steps hold none."""
    try:
        held = np.abs(bias) <= LARGEST_BIAS * steps
    except ValueError:  # the shapes do not broadcast
        return False
    return bool(np.isfinite(steps).all() and held.all())
