"""The smallest and the largest value: what is measured of every value that anything is measured of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from onnxq.quant.statistics.base import Block, Holding, Known, Rescaling, Statistic
from onnxq.quant.statistics.channel_range import ChannelRange
from onnxq.quant.statistics.plain import number_out


@dataclass(frozen=True, eq=False)
class Range(Statistic):
    """Smallest and largest value.

    Args:
        low: The smallest value, which may be infinite; infinity if none was seen.
        high: The largest value, likewise.

    Raises:
        ValueError: One of them is NaN.

    """

    name = "range"
    low: float = math.inf
    high: float = -math.inf

    def __post_init__(self) -> None:
        """Check both ends."""
        if math.isnan(self.low) or math.isnan(self.high):
            raise ValueError(f"no range reaches from {self.low} to {self.high}")

    @staticmethod
    def observer() -> RangeObserver:
        """Return one with an empty range."""
        return RangeObserver()

    @classmethod
    def rescaled(cls, known: Known, by: Rescaling) -> Self | None:
        """Return the range of all channels, where each one's is known."""
        moved = ChannelRange.rescaled(known, by)
        return None if moved is None else cls(float(moved.low.min()), float(moved.high.max()))

    @classmethod
    def held(cls, known: Known, by: Holding) -> Self | None:
        """Return the range of all channels, where each one's is known."""
        left = ChannelRange.held(known, by)
        return None if left is None else cls(float(left.low.min()), float(left.high.max()))

    def to_table(self) -> dict[str, Any]:
        """Return both ends."""
        return {"low": number_out(self.low), "high": number_out(self.high)}

    @classmethod
    def from_table(cls, entry: Mapping[str, Any]) -> Self:
        """Read both ends: every entry has them."""
        return cls(float(entry["low"]), float(entry["high"]))

    def to_fields(self) -> dict[str, Any]:
        """Return both ends."""
        return {"low": self.low, "high": self.high}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """Read both ends: every line has them."""
        return cls(float(fields["low"]), float(fields["high"]))


class RangeObserver:
    """Widens a range."""

    def __init__(self) -> None:
        """Start with an empty range."""
        self.low, self.high = math.inf, -math.inf

    def update(self, block: Block) -> None:
        """Widen the range."""
        self._widen(float(block.lowest.min()), float(block.highest.max()))

    def merge(self, later: RangeObserver) -> None:
        """Widen the range by the other's."""
        self._widen(later.low, later.high)

    def _widen(self, low: float, high: float) -> None:
        self.low, self.high = min(self.low, low), max(self.high, high)

    def result(self) -> Range:
        """Return the range."""
        return Range(self.low, self.high)
