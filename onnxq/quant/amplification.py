"""How much of a tensor's quantization error its outliers cause, by the range that they make wide.

With a grid over all values, the step is as long as the outliers ask for, and every other value is rounded
with it. With a grid over the middle of the values alone, what is left is their rounding, and what it costs to
cut the outliers off. The part of the error that goes away is the part that outliers amplify.

Source: the abstract of QuantTune (Chen et al., 2024, arXiv:2403.06497), which gives 65 % on average; how they
count is not told there, and this is a reconstruction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxq.quant.clipping import ExpectedSquaredError
from onnxq.quant.statistics import Histogram

MIDDLE = 0.999
"""The part of the values that are no outliers."""


@dataclass(frozen=True)
class Amplification:
    """What the squared error of one tensor is made of, each as the mean over all of its values.

    Args:
        low: The smallest value.
        high: The largest.
        error: Of a grid over all values.
        rounding: Of a grid over the middle of them, on the middle: what is left without outliers.
        cutting: What such a grid costs the others, which it cuts off.

    """

    low: float
    high: float
    error: float
    rounding: float
    cutting: float

    @property
    def share(self) -> float:
        """The part of the error that is due to the range, 0 to 1."""
        return max(1 - self.rounding / self.error, 0.0) if self.error > 0 else 0.0


def amplification(histogram: Histogram, dtype: str = "uint8", limit: int | None = None) -> Amplification:
    """Return what the error of a min-max grid is made of.

    Args:
        histogram: Of all values, which are not all 0.
        dtype: What is stored.
        limit: The largest integer in use, where it is not the type's.

    """
    below, above, _ = histogram.ordered()
    wide = float(below[0]), float(above[-1])
    inner = histogram.quantile((1 - MIDDLE) / 2), histogram.quantile((1 + MIDDLE) / 2)

    def cost(of: Histogram, values: tuple[float, float], grid: tuple[float, float]) -> float:
        low, high = (np.asarray(end) for end in grid)
        found = ExpectedSquaredError(of, *values, dtype, symmetric=False, limit=limit)(low, high)
        return float(found) / histogram.count

    kept = cost(_within(histogram, *inner), inner, inner)
    return Amplification(*wide, cost(histogram, wide, wide), kept, cost(histogram, wide, inner) - kept)


def _within(histogram: Histogram, low: float, high: float) -> Histogram:
    """Return the bins that lie in a range, but for the ends of their values."""
    values = (np.arange(histogram.counts.size, dtype=np.uint32) << 16).view(np.float32)
    with np.errstate(invalid="ignore"):
        inside = (values >= low) & (values <= high)
    return Histogram(np.where(inside, histogram.counts, 0))
