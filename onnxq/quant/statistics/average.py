"""The moving average, over the samples, of the smallest and the largest value of each sample."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from onnxq.quant.statistics.base import Block, Statistic
from onnxq.quant.statistics.plain import number_out, pair

MOMENTUM = 0.9
"""How much of the moving average stays with each new sample."""


@dataclass(frozen=True, eq=False)
class Average(Statistic):
    """Exponential moving average of each sample's smallest and largest value, in the order of the samples.

    Args:
        low: The average of the smallest values; may be infinite.
        high: The average of the largest, likewise.

    Raises:
        ValueError: One of them is NaN.

    """

    name = "average"
    low: float
    high: float

    def __post_init__(self) -> None:
        """Check both ends."""
        if math.isnan(self.low) or math.isnan(self.high):
            raise ValueError(f"no average range reaches from {self.low} to {self.high}")

    @staticmethod
    def observer() -> AverageObserver:
        """Return one without an average."""
        return AverageObserver()

    def to_table(self) -> dict[str, Any]:
        """Return both ends as a list."""
        return {"average": [number_out(self.low), number_out(self.high)]}

    @classmethod
    def from_table(cls, entry: Mapping[str, Any]) -> Self | None:
        """Read both ends."""
        return cls(*pair(entry["average"])) if "average" in entry else None

    def to_fields(self) -> dict[str, Any]:
        """Return both ends as a list."""
        return {"average": [self.low, self.high]}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self | None:
        """Read both ends."""
        return cls(*pair(fields["average"])) if "average" in fields else None


class AverageObserver:
    """Moves an average by one step for each sample, so that batches do not matter."""

    def __init__(self) -> None:
        """Start without an average: the first sample sets it."""
        self.samples = 0
        self.first = self.average = (0.0, 0.0)

    def update(self, block: Block) -> None:
        """Move the average by one step for each sample."""
        lows, highs = block.lowest.tolist(), block.highest.tolist()
        if not self.samples:
            self.first = self.average = (lows[0], highs[0])
        low, high = self.average
        for next_low, next_high in zip(lows, highs, strict=True):
            low = MOMENTUM * low + (1 - MOMENTUM) * next_low
            high = MOMENTUM * high + (1 - MOMENTUM) * next_high
        self.average = (low, high)
        self.samples += len(lows)

    def merge(self, later: AverageObserver) -> None:
        """Continue with the other's samples: an average is linear in where it starts."""
        if not self.samples:
            self.first, self.average = later.first, later.average
        elif later.samples:
            stays = MOMENTUM**later.samples
            low, high = map(_continued, self.average, later.average, later.first, (stays, stays))
            self.average = (low, high)
        self.samples += later.samples

    def result(self) -> Average | None:
        """Return the average."""
        return Average(*self.average) if self.samples else None


def _continued(before: float, after: float, start: float, stays: float) -> float:
    """Return where an average ends that came from ``before`` and not from ``start``; infinities stay."""
    return after + stays * (before - start) if math.isfinite(after) else after
