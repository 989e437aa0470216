"""Float types narrower than float32: which values they hold, and how far they round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

HEADROOM = 2.0
"""How much larger than the largest measured value one that was not measured may be."""


@dataclass(frozen=True)
class NarrowFloat:
    """A float type of 16 bits.

    Args:
        name: Its name in NumPy and ONNX.
        eps: The distance from 1 to the next larger number.
        largest: The largest finite number.
        smallest: The smallest positive number that is held to full precision.

    """

    name: str
    eps: float
    largest: float
    smallest: float

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy type."""
        return np.dtype(ml_dtypes.bfloat16 if self.name == "bfloat16" else np.float16)

    @property
    def filler(self) -> float:
        """A magnitude that Softmax takes for infinite, though scores may still be added to it.

        ``exp`` of anything below -150 is 0 in float32, and half of the largest number leaves as much again
        for the scores.
        """
        return self.largest / 2

    def holds(self, low: float, high: float, headroom: float = HEADROOM) -> bool:
        """Tell whether a tensor of this range neither overflows nor vanishes.

        Numbers below ``smallest`` are rounded to multiples of ``smallest * eps``. That is at most ``eps``
        of the tensor's largest value as long as the latter is not below ``smallest`` itself.
        """
        magnitude = max(-low, high, 0.0)
        return magnitude == 0 or self.smallest <= magnitude <= self.largest / headroom

    def holds_array(self, array: NDArray[Any]) -> bool:
        """Tell whether the finite values of a constant neither overflow nor vanish."""
        finite = array[np.isfinite(array)]
        return finite.size == 0 or self.holds(float(finite.min()), float(finite.max()), headroom=1.0)

    def rounded(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the array in this type, each value rounded to the nearest; infinite beyond its range."""
        with np.errstate(over="ignore"):
            return array.astype(self.dtype)

    def clipped(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the array with magnitudes of at most ``filler``; for masks, which are large or 0."""
        return np.asarray(np.clip(array, -self.filler, self.filler))


def narrow_float(name: str) -> NarrowFloat:
    """Return the type called ``float16`` or ``bfloat16``."""
    info: Any = ml_dtypes.finfo(name)  # type: ignore[no-untyped-call]
    return NarrowFloat(name, float(info.eps), float(info.max), float(info.smallest_normal))
