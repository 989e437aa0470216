"""How much the loss cares for values of each size: squared gradients, added up in the bins of a histogram."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onnxq.quant.statistics.base import Block, Statistic
from onnxq.quant.statistics.histogram import BIN_COUNT, bins_of, filled_bins
from onnxq.quant.statistics.plain import array_out, numbers_in


@dataclass(frozen=True, eq=False)
class CurvedHistogram(Statistic):
    """Squared gradients of float32 values by the upper 16 bits of the value.

    Args:
        counts: Shape (65536,), float64: the sum of those in each bin of ``Histogram``.

    Raises:
        ValueError: One is negative.

    """

    name = "curved-histogram"
    gradients = "own"
    counts: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Check the sums."""
        if self.counts.min() < 0:
            raise ValueError("a square is negative")

    @staticmethod
    def observer() -> CurvedHistogramObserver:
        """Return one with empty bins."""
        return CurvedHistogramObserver()

    @property
    def bulk(self) -> int:
        """The filled bins."""
        return int(np.count_nonzero(self.counts))

    def ordered(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return the lower edges, upper edges and sums of the filled bins, by rising value; each (B,)."""
        return filled_bins(self.counts)

    def to_table(self) -> dict[str, Any]:
        """Return the filled bins."""
        filled = np.flatnonzero(self.counts)
        bins, counts = array_out(filled.astype(np.uint16)), array_out(self.counts[filled])
        return {self.name: {"bins": bins, "counts": counts}}

    @classmethod
    def from_table(cls, entry: Mapping[str, Any]) -> Self | None:
        """Read the filled bins."""
        if cls.name not in entry:
            return None
        return cls._filled(*(numbers_in(entry[cls.name][part]) for part in ("bins", "counts")))

    def to_fields(self) -> dict[str, Any]:
        """Return the filled bins, and their sums."""
        filled = np.flatnonzero(self.counts)
        return {"curved_histogram": np.stack([filled, self.counts[filled]])}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self | None:
        """Read both."""
        if "curved_histogram" not in fields:
            return None
        return cls._filled(*(np.asarray(part) for part in fields["curved_histogram"]))

    @classmethod
    def _filled(cls, bins: NDArray[Any], counts: NDArray[Any]) -> Self:
        everywhere = np.zeros(BIN_COUNT)
        everywhere[bins.astype(np.int64)] = counts
        return cls(everywhere)


class CurvedHistogramObserver:
    """Adds up by the bins of ``Histogram``."""

    def __init__(self) -> None:
        """Start with empty bins."""
        self.counts = np.zeros(BIN_COUNT)

    def update(self, block: Block) -> None:
        """Add the squared gradients up, sample by sample."""
        for values, squares in zip(block.values, block.squares, strict=True):
            self.counts += np.bincount(bins_of(values), squares.reshape(-1), minlength=BIN_COUNT)

    def merge(self, later: CurvedHistogramObserver) -> None:
        """Add the other's sums."""
        self.counts += later.counts

    def result(self) -> CurvedHistogram:
        """Return the histogram."""
        return CurvedHistogram(self.counts)
