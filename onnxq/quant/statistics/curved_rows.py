"""A bounded, seeded sample of rows, and how much the loss cares for each of their values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from onnxq.quant.statistics.base import Block, Float32, Known, Rescaling, Statistic
from onnxq.quant.statistics.by_channel import check_channels, field_of
from onnxq.quant.statistics.plain import array_out, numbers_in
from onnxq.quant.statistics.rows import RowsObserver

ROWS = 512
"""As many of every value, so that of two values with as many rows the same are sampled."""


@dataclass(frozen=True, eq=False)
class CurvedRows(Statistic):
    """Sampled rows in the order in which they came, with the squared gradient of each value.

    Calibration tables leave it out: it is large, and holds pieces of the data itself.

    Args:
        values: The rows, shape (R, C), float32.
        squares: What they cost: noise of variance v in a value adds half of it times v to the loss.

    Raises:
        ValueError: They are something else.

    """

    name = "curved-rows"
    by_channel = True
    in_tables = False
    in_manifests = False
    gradients = "own"
    values: Float32
    squares: Float32

    def __post_init__(self) -> None:
        """Check both arrays."""
        check_channels(self.name, self.values, 2)
        check_channels(self.name, self.squares, 2)
        if self.values.shape != self.squares.shape:
            raise ValueError(f"rows of {self.values.shape}, with squares of {self.squares.shape}")

    @staticmethod
    def observer() -> CurvedRowsObserver:
        """Return one without rows, at the beginning of the stream."""
        return CurvedRowsObserver()

    @classmethod
    def rescaled(cls, known: Known, by: Rescaling) -> Self | None:
        """Return the rows moved; a gradient grows as its value shrinks."""
        before = known.get(cls, by.axis)
        if before is None:
            return None
        return cls(by.of(before.values), (before.squares * by.scale**2).astype(np.float32))

    @property
    def channels(self) -> int:
        """C."""
        return int(self.values.shape[-1])

    @property
    def bulk(self) -> int:
        """All numbers."""
        return 2 * self.values.size

    def thinned(self, most: int) -> Self:
        """Return the first rows."""
        few = slice(max(1, most // max(1, 2 * self.channels)))
        return type(self)(self.values[few], self.squares[few])

    def to_table(self) -> dict[str, Any]:
        """Return both arrays."""
        return {self.name: {name: array_out(array) for name, array in vars(self).items()}}

    @classmethod
    def from_table(cls, entry: Mapping[str, Any]) -> Self | None:
        """Read both arrays."""
        parts = entry.get(cls.name)
        return None if parts is None else cls(*(numbers_in(parts[name]) for name in ("values", "squares")))

    def to_fields(self) -> dict[str, Any]:
        """Return both arrays, one behind the other."""
        return {field_of(self.name): np.stack([self.values, self.squares])}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self | None:
        """Read both arrays."""
        field = field_of(cls.name)
        return cls(*np.asarray(fields[field], np.float32)) if field in fields else None


class CurvedRowsObserver:
    """Samples rows together with their squares.

    Args:
        start: The place of the first row.

    """

    def __init__(self, start: int = 0) -> None:
        """Start without rows."""
        self._both = RowsObserver(start, ROWS)

    def update(self, block: Block) -> None:
        """Let the block's rows compete with the kept ones."""
        rows, squares = (np.moveaxis(array, block.axis, -1) for array in (block.values, block.squares))
        self._both.update(Block(np.concatenate([rows, squares], axis=-1), -1))

    def merge(self, later: CurvedRowsObserver) -> None:
        """Let the other's rows compete with the kept ones."""
        self._both.merge(later._both)

    def result(self) -> CurvedRows | None:
        """Return the rows."""
        both = self._both.result()
        return None if both is None else CurvedRows(*np.split(both.values, 2, axis=1))
