"""Products of channels, summed over all rows: the Gram matrix of a layer's input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from onnxq.quant.statistics.base import Block, Float32, Known, Rescaling
from onnxq.quant.statistics.by_channel import ChannelArray
from onnxq.quant.statistics.mean import Mean

ROWS = 256
"""How many rows are multiplied at a time; their number and order in the stream alone decide the rounding."""

LEFT = 2.0**-8
"""A shift that leaves less of a channel's sum of squares takes too many of float32's 24 bits with it."""


@dataclass(frozen=True, eq=False)
class Gram(ChannelArray):
    """``x.T @ x`` over all rows ``x``, shape (C, C). Calibration tables leave it out: it is large."""

    name = "gram"
    rank = 2
    in_tables = False
    in_manifests = False

    @staticmethod
    def observer() -> GramObserver:
        """Return one without rows."""
        return GramObserver()

    @classmethod
    def rescaled(cls, known: Known, by: Rescaling) -> Self | None:
        """Return the products of what the channels become.

        Without a shift they are divided by the scales. With one, the sums of the channels are needed as well,
        and None is returned where so little of a channel is left that rounding would show.
        """
        before, mean = known.get(cls, by.axis), known.get(Mean, by.axis)
        if before is None:
            return None
        gram = before.values.astype(np.float64)
        if by.shift.any():
            if mean is None:
                return None
            rows = known.count / before.channels
            gram = _shifted(gram, rows * mean.values.astype(np.float64), rows, by.shift)
            if (np.diagonal(gram) < LEFT * np.diagonal(before.values)).any():
                return None
        return cls((gram / np.outer(by.scale, by.scale)).astype(np.float32))

    @property
    def bulk(self) -> int:
        """All numbers."""
        return self.values.size


def _shifted(
    gram: NDArray[np.float64], sums: NDArray[np.float64], rows: float, shift: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return ``(x - shift).T @ (x - shift)``, of ``x.T @ x`` and the sums of each channel over all rows."""
    crossed = np.outer(shift, sums)
    result: NDArray[np.float64] = gram - crossed - crossed.T + rows * np.outer(shift, shift)
    return result


class GramObserver:
    """Products of channels, multiplied in float32 and summed in float64."""

    def __init__(self) -> None:
        """Start without rows."""
        self.gram: NDArray[np.float64] = np.empty((0, 0))
        self.rows: Float32 = np.empty((0, 0), np.float32)
        self.filled = 0

    def update(self, block: Block) -> None:
        """Gather rows, and multiply them whenever there are enough."""
        self._gather(np.moveaxis(block.values, block.axis, -1).reshape(-1, block.values.shape[block.axis]))

    def merge(self, later: GramObserver) -> None:
        """Add the other's products, and gather the rows that it has not multiplied yet."""
        if later.gram.size:
            self._gather(later.rows[: later.filled])
            self.gram += later.gram

    def _gather(self, rows: Float32) -> None:
        if not len(self.rows):
            self.rows = np.empty((ROWS, rows.shape[1]), np.float32)
            self.gram = np.zeros((rows.shape[1], rows.shape[1]))
        while len(rows):
            fitting = rows[: ROWS - self.filled]
            self.rows[self.filled : self.filled + len(fitting)] = fitting
            self.filled += len(fitting)
            rows = rows[len(fitting) :]
            if self.filled == ROWS:
                self._multiply()

    def _multiply(self) -> None:
        rows = self.rows[: self.filled]
        with np.errstate(invalid="ignore"):  # infinity times zero is NaN
            self.gram += rows.T @ rows
        self.filled = 0

    def result(self) -> Gram | None:
        """Return the matrix."""
        self._multiply()
        return Gram(self.gram.astype(np.float32)) if self.gram.size else None
