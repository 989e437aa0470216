"""Blocks: neighbours along one axis share a scale, so that few bits suffice; and what covers their values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.quant.encodings.layout import Layout, Lengths


@dataclass(frozen=True)
class Blocks(Layout):
    """One scale for each block.

    Args:
        axis: The axis that is cut into blocks; all others count as many scales as they have values.
        size: The length of a block; the last may be shorter.

    Raises:
        ValueError: A block has no value.

    """

    parts = "blocks"
    axis: int
    size: int

    def __post_init__(self) -> None:
        """Check the size."""
        if self.size < 1:
            raise ValueError(f"a block of {self.size} is not possible")

    def holds(self, rank: int) -> bool:
        """An array that has the axis."""
        return -rank <= self.axis < rank

    def fits(self, scales: Sequence[int], shape: Lengths) -> bool:
        """As many blocks as scales along the axis, and as many values along all others."""
        if len(shape) != len(scales):
            return False
        divided = list(shape)
        length = divided[self.axis]
        divided[self.axis] = None if length is None else -(-length // self.size)
        return all(length in (None, count) for length, count in zip(divided, scales, strict=True))

    def spread(self, array: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
        """Repeat each entry for the values of its block; one is broadcast as it is."""
        if array.shape[self.axis] == 1:
            return array
        return np.take(array, np.arange(shape[self.axis]) // self.size, axis=self.axis)

    def rows_apart(self, rank: int) -> int:
        """Whole blocks, where the rows are what is cut."""
        return self.size if self.axis % rank == 0 else 1

    def rows(self, start: int, stop: int, rank: int) -> slice | None:
        """The scales of these rows, or of the blocks that they fill."""
        size = self.rows_apart(rank)
        return slice(start // size, -(-stop // size))

    def ends(self, values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the smallest and the largest value of each block.

        Args:
            values: Any shape with at least one element along the axis.

        """
        starts = np.arange(0, values.shape[self.axis], self.size)
        low = np.minimum.reduceat(values, starts, axis=self.axis)
        high = np.maximum.reduceat(values, starts, axis=self.axis)
        return low, high
