"""Layouts: which values of a tensor share a scale."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.typing import NDArray

Lengths = Sequence[int | None]
"""A shape; None is an unknown length."""


class Layout(ABC):
    """Where the parts of a tensor lie that have a scale each."""

    parts: ClassVar[str]
    """What they are, for messages."""

    @abstractmethod
    def holds(self, rank: int) -> bool:
        """Tell whether scales can be an array of ``rank`` axes."""

    @abstractmethod
    def fits(self, scales: Sequence[int], shape: Lengths) -> bool:
        """Tell whether a tensor of ``shape`` has as many parts as an array of scales of shape ``scales``."""

    @abstractmethod
    def spread(self, array: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
        """Return an array with an entry for each part so that it broadcasts against a tensor of ``shape``."""

    def rows_apart(self, rank: int) -> int:
        """Return of how many rows along axis 0 a piece of a tensor has to be a multiple; see ``rows``."""
        return 1

    @abstractmethod
    def rows(self, start: int, stop: int, rank: int) -> slice | None:
        """Return which entries along axis 0 of the scales are those of some rows of a tensor.

        Args:
            start: The first row, a multiple of ``rows_apart``.
            stop: The row behind the last.
            rank: How many axes the tensor has.

        Returns:
            None where all entries are.

        """


class Whole(Layout):
    """One scale for all values."""

    parts = "values"

    def holds(self, rank: int) -> bool:
        """A scalar."""
        return rank == 0

    def fits(self, scales: Sequence[int], shape: Lengths) -> bool:
        """Any tensor."""
        return True

    def spread(self, array: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
        """A scalar is broadcast as it is."""
        return array

    def rows(self, start: int, stop: int, rank: int) -> slice | None:
        """The one scale is everyone's."""
        return None


@dataclass(frozen=True)
class Channels(Layout):
    """One scale for each channel.

    Args:
        axis: The axis that counts the channels.

    """

    parts = "channels"
    axis: int

    def holds(self, rank: int) -> bool:
        """A vector."""
        return rank == 1

    def fits(self, scales: Sequence[int], shape: Lengths) -> bool:
        """As many channels as scales."""
        return -len(shape) <= self.axis < len(shape) and shape[self.axis] in (None, scales[0])

    def spread(self, array: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
        """Lie the vector along the axis."""
        ones = [1] * len(shape)
        ones[self.axis] = -1
        return array.reshape(ones)

    def rows(self, start: int, stop: int, rank: int) -> slice | None:
        """All scales, unless the rows are the channels."""
        return slice(start, stop) if self.axis % rank == 0 else None
