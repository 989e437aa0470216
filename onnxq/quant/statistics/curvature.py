"""How much the loss curves along each channel: the diagonal of the Gauss-Newton matrix, drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from onnxq.quant.statistics.base import Block, Known, Rescaling
from onnxq.quant.statistics.by_channel import ChannelArray


@dataclass(frozen=True, eq=False)
class Curvature(ChannelArray):
    """The squared gradients of each channel, summed over its places in a sample, in the mean; shape (C,).

    Noise of the variance v in a channel adds half of it times v to a sample's loss, in expectation.
    """

    name = "curvature"
    gradients = "own"

    @staticmethod
    def observer() -> CurvatureObserver:
        """Return one with empty sums."""
        return CurvatureObserver()

    @classmethod
    def rescaled(cls, known: Known, by: Rescaling) -> Self | None:
        """Return that of what was divided: a gradient grows as its value shrinks."""
        before = known.get(cls, by.axis)
        return None if before is None else cls((before.values * by.scale**2).astype(np.float32))


class CurvatureObserver:
    """One sum for each channel, in float64."""

    def __init__(self) -> None:
        """Start with empty sums that take any number of channels."""
        self.sums, self.count = np.zeros(1), 0

    def update(self, block: Block) -> None:
        """Add the samples up, one after the other."""
        for sample in np.moveaxis(block.squares, block.axis, 1):
            self.sums = self.sums + sample.reshape(len(sample), -1).sum(axis=1, dtype=np.float64)
            self.count += 1

    def merge(self, later: CurvatureObserver) -> None:
        """Add the other's sums."""
        self.sums = self.sums + later.sums
        self.count += later.count

    def result(self) -> Curvature | None:
        """Return the means over the samples."""
        return Curvature((self.sums / self.count).astype(np.float32)) if self.count else None
