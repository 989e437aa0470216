"""Products of channels, summed over all rows: the Gram matrix of a layer's input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from onnxq.quant.statistics.base import Block, Float32, Known, Rescaling
from onnxq.quant.statistics.by_channel import ChannelArray

ROWS = 256
"""How many rows are multiplied at a time; their number and order in the stream alone decide the rounding."""

MOST_ROWS = 256
"""Of one sample, so many rows are looked at, evenly spaced: neighbours tell little new. Too few are fitted
themselves: with 64 of each of 32 images, SqueezeNet's outputs erred clearly more than with 256."""

MOST_CHANNELS = 4096
"""The products of more channels would take more than 128 MB: nobody should ask for them."""

LEFT = 2.0**-8
"""A shift that leaves less of a channel's sum of squares takes too many of float32's 24 bits with it."""


@dataclass(frozen=True, eq=False)
class Gram(ChannelArray):
    """``x.T @ x`` over many rows ``x`` with a 1 behind them, shape (C + 1, C + 1).

    So it holds the sums of the channels and the number of rows as well, which a shift asks for. Calibration
    tables leave it out: it is large.
    """

    name = "gram"
    rank = 2
    in_tables = False
    in_manifests = False

    @staticmethod
    def observer() -> GramObserver:
        """Return one without rows."""
        return GramObserver()

    @classmethod
    def of(cls, rows: Float32) -> Self:
        """Return the products of rows, shape (R, C)."""
        wide = np.pad(rows.astype(np.float64), ((0, 0), (0, 1)), constant_values=1.0)
        return cls((wide.T @ wide).astype(np.float32))

    @property
    def products(self) -> Float32:
        """``x.T @ x``, shape (C, C)."""
        return self.values[:-1, :-1]

    @property
    def channels(self) -> int:
        """C."""
        return len(self.values) - 1

    @classmethod
    def rescaled(cls, known: Known, by: Rescaling) -> Self | None:
        """Return the products of what the channels become.

        Without a shift they are divided by the scales. With one, None is returned where so little of a
        channel is left that rounding would show.
        """
        before = known.get(cls, by.axis)
        if before is None:
            return None
        shift, scale = np.append(by.shift, 0.0), np.append(by.scale, 1.0)
        gram = before.values.astype(np.float64)
        crossed = np.outer(shift, gram[-1])
        moved = gram - crossed - crossed.T + gram[-1, -1] * np.outer(shift, shift)
        if by.shift.any() and (np.diagonal(moved) < LEFT * np.diagonal(gram)).any():
            return None
        after = moved / np.outer(scale, scale)
        return cls(after.astype(np.float32))

    @property
    def bulk(self) -> int:
        """All numbers."""
        return self.values.size


class GramObserver:
    """Products of channels, multiplied in float32 and summed in float64."""

    def __init__(self) -> None:
        """Start without rows."""
        self.gram: NDArray[np.float64] = np.empty((0, 0))
        self.rows: Float32 = np.empty((0, 0), np.float32)
        self.filled = 0

    def update(self, block: Block) -> None:
        """Gather rows, and multiply them whenever there are enough."""
        samples = self._rows(block)
        wide = samples.shape[-1]
        rows = samples.reshape(len(samples), -1, wide)
        apart = -(-rows.shape[1] // MOST_ROWS) or 1
        self._gather(rows[:, ::apart].reshape(-1, wide))

    def _rows(self, block: Block) -> Float32:
        """Return the rows of samples, shape (N, ..., C + 1)."""
        return with_one(np.moveaxis(block.values, block.axis, -1))

    def merge(self, later: GramObserver) -> None:
        """Add the other's products, and gather the rows that it has not multiplied yet."""
        if later.gram.size:
            self._gather(later.rows[: later.filled])
            self.gram += later.gram

    def _gather(self, rows: Float32) -> None:
        wide = rows.shape[1]
        if not len(self.rows):
            self.rows = np.empty((ROWS, wide), np.float32)
            self.gram = np.zeros((wide, wide))
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


def with_one(rows: Float32) -> Float32:
    """Return rows, shape (..., C), with a 1 behind each."""
    return np.concatenate([rows, np.ones((*rows.shape[:-1], 1), np.float32)], axis=-1)
