"""The mean of each channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from onnxq.quant.statistics.base import Block, Holding, Known, Rescaling
from onnxq.quant.statistics.by_channel import ChannelArray
from onnxq.quant.statistics.plain import array_in
from onnxq.quant.statistics.rows import Rows


@dataclass(frozen=True, eq=False)
class Mean(ChannelArray):
    """The mean of each channel, shape (C,); NaN where it holds infinities of both signs."""

    name = "mean"

    @staticmethod
    def observer() -> MeanObserver:
        """Return one with empty sums."""
        return MeanObserver()

    @classmethod
    def rescaled(cls, known: Known, by: Rescaling) -> Self | None:
        """Return the means moved."""
        before = known.get(cls, by.axis)
        return None if before is None else cls(by.of(before.values))

    @classmethod
    def held(cls, known: Known, by: Holding) -> Self | None:
        """Return the means, less what is cut off the sampled rows in the mean."""
        before, rows = known.get(cls, by.axis), known.get(Rows, by.axis)
        if before is None or rows is None:
            return None
        cut = (rows.values - by.of(rows.values)).mean(axis=0, dtype=np.float64)
        return cls((before.values - cut).astype(np.float32))

    @classmethod
    def from_table(cls, entry: Mapping[str, Any]) -> Self | None:
        """Read the array, with NaN where it may be."""
        return cls(array_in(entry["mean"])) if "mean" in entry else None


class MeanObserver:
    """One sum for each sample, added in float64, so that batches do not matter."""

    def __init__(self) -> None:
        """Start with empty sums that take any number of channels."""
        self.sums, self.count = np.zeros(1), 0

    def update(self, block: Block) -> None:
        """Add the samples up, one after the other."""
        for sample in np.moveaxis(block.values, block.axis, 1):
            rows = sample.reshape(len(sample), -1)
            with np.errstate(invalid="ignore"):  # infinities of both signs have no mean
                self.sums = self.sums + rows.sum(axis=1, dtype=np.float64)
            self.count += rows.shape[1]

    def merge(self, later: MeanObserver) -> None:
        """Add the other's sums."""
        self.sums = self.sums + later.sums
        self.count += later.count

    def result(self) -> Mean | None:
        """Return the means."""
        return Mean((self.sums / self.count).astype(np.float32)) if self.count else None
