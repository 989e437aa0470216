"""The smallest and the largest value of each channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from onnxq.quant.statistics.base import Block, Float32, Holding, Known, Rescaling, Statistic
from onnxq.quant.statistics.by_channel import check_channels
from onnxq.quant.statistics.plain import array_out, numbers_in


@dataclass(frozen=True, eq=False)
class ChannelRange(Statistic):
    """Smallest and largest value of each channel.

    Args:
        low: The smallest values, shape (C,), float32; may be infinite.
        high: The largest values, likewise.

    Raises:
        ValueError: They are something else.

    """

    name = "channel-range"
    by_channel = True
    low: Float32
    high: Float32

    def __post_init__(self) -> None:
        """Check both arrays."""
        for end, array in (("low", self.low), ("high", self.high)):
            check_channels(end, array, 1)
        if len(self.low) != len(self.high):
            raise ValueError(f"{len(self.low)} channels at one end, {len(self.high)} at the other")

    @staticmethod
    def observer() -> ChannelRangeObserver:
        """Return one without ranges."""
        return ChannelRangeObserver()

    @classmethod
    def rescaled(cls, known: Known, by: Rescaling) -> Self | None:
        """Return both ends moved."""
        before = known.get(cls, by.axis)
        return None if before is None else cls(by.of(before.low), by.of(before.high))

    @classmethod
    def held(cls, known: Known, by: Holding) -> Self | None:
        """Return both ends held."""
        before = known.get(cls, by.axis)
        return None if before is None else cls(by.of(before.low), by.of(before.high))

    @property
    def channels(self) -> int:
        """C."""
        return len(self.low)

    def to_table(self) -> dict[str, Any]:
        """Return both arrays."""
        return {"low": array_out(self.low), "high": array_out(self.high)}

    @classmethod
    def from_table(cls, entry: Mapping[str, Any]) -> Self | None:
        """Read both arrays."""
        return cls(numbers_in(entry["low"]), numbers_in(entry["high"])) if "low" in entry else None

    def to_fields(self) -> dict[str, Any]:
        """Return both arrays."""
        return {"channel_low": self.low, "channel_high": self.high}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self | None:
        """Read both arrays."""
        if "channel_low" not in fields:
            return None
        return cls(*(np.asarray(fields[name], np.float32) for name in ("channel_low", "channel_high")))


class ChannelRangeObserver:
    """Widens the range of each channel."""

    def __init__(self) -> None:
        """Start without ranges: the first block sets them."""
        self.low: Float32 | None = None
        self.high: Float32 | None = None

    def update(self, block: Block) -> None:
        """Widen the ranges."""
        self._widen(block.low.min(axis=0), block.high.max(axis=0))

    def merge(self, later: ChannelRangeObserver) -> None:
        """Widen the ranges by the other's."""
        if later.low is not None and later.high is not None:
            self._widen(later.low, later.high)

    def _widen(self, low: Float32, high: Float32) -> None:
        self.low = low if self.low is None else np.minimum(self.low, low)
        self.high = high if self.high is None else np.maximum(self.high, high)

    def result(self) -> ChannelRange | None:
        """Return the ranges."""
        return None if self.low is None or self.high is None else ChannelRange(self.low, self.high)
