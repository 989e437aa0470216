"""What the statistics share that are one array whose last axis counts the channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from onnxq.quant.statistics.base import Float32, Statistic
from onnxq.quant.statistics.plain import array_out, numbers_in


@dataclass(frozen=True, eq=False)
class ChannelArray(Statistic):
    """One array for all channels; tables and texts hold it under the statistic's name.

    Args:
        values: Shape (..., C), float32, with ``rank`` axes.

    Raises:
        ValueError: It has another type or rank.

    """

    by_channel = True
    rank: ClassVar[int] = 1
    values: Float32

    def __post_init__(self) -> None:
        """Check the array."""
        check_channels(self.name, self.values, self.rank)

    @property
    def channels(self) -> int:
        """C."""
        return int(self.values.shape[-1])

    def to_table(self) -> dict[str, Any]:
        """Return the array."""
        return {self.name: array_out(self.values)}

    @classmethod
    def from_table(cls, entry: Mapping[str, Any]) -> Self | None:
        """Read the array."""
        return cls(numbers_in(entry[cls.name])) if cls.name in entry else None

    def to_fields(self) -> dict[str, Any]:
        """Return the array."""
        return {field_of(self.name): self.values}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self | None:
        """Read the array."""
        field = field_of(cls.name)
        return cls(np.asarray(fields[field], np.float32)) if field in fields else None


def field_of(name: str) -> str:
    """Return the field of a ``# fact`` line that holds the statistic of this name."""
    return name.replace("-", "_")


def check_channels(name: str, array: Float32, rank: int) -> None:
    """Refuse what is no float32 array of ``rank`` axes.

    Raises:
        ValueError: It is none.

    """
    if array.dtype != np.float32 or array.ndim != rank:
        raise ValueError(f"{name} of channels is {array.dtype}{list(array.shape)}")
