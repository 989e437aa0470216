"""What a statistic is: how it is observed, moved and written down. Arithmetic on arrays; no graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
S = TypeVar("S", bound="Statistic")


@dataclass(frozen=True)
class Block:
    """Some samples of one value.

    Args:
        values: Shape (N, ...), rank 2 or more; axis 0 counts the samples.
        axis: The channel axis, negative.
        ranged: Whether somebody wants the ranges of the channels, from which that of the whole follows.
        gradients: The squared gradients, of the shape of the values, or with one channel for all; None
            where nobody looked, and all values count alike.

    """

    values: Float32
    axis: int
    ranged: bool = False
    gradients: Float32 | None = None

    @property
    def squares(self) -> Float32:
        """The squared gradients, or ones."""
        return np.ones_like(self.values) if self.gradients is None else self.gradients

    @cached_property
    def lowest(self) -> Float32:
        """The smallest value of each sample, shape (N,)."""
        lowest: Float32 = _flat(self.low if self.ranged else self.values).min(axis=1)
        return lowest

    @cached_property
    def highest(self) -> Float32:
        """The largest value of each sample, shape (N,)."""
        highest: Float32 = _flat(self.high if self.ranged else self.values).max(axis=1)
        return highest

    @cached_property
    def low(self) -> Float32:
        """The smallest value of each sample and channel, shape (N, C)."""
        low: Float32 = self.values.min(axis=self._inner)
        return low

    @cached_property
    def high(self) -> Float32:
        """The largest value of each sample and channel, shape (N, C)."""
        high: Float32 = self.values.max(axis=self._inner)
        return high

    @property
    def _inner(self) -> tuple[int, ...]:
        channel = self.values.ndim + self.axis
        return tuple(axis for axis in range(1, self.values.ndim) if axis != channel)


def _flat(values: Float32) -> Float32:
    """Lay each sample flat: in the order of memory, extremes are found three times as fast."""
    return values.reshape(len(values), -1)


class Observer(Protocol):
    """Takes in the samples of one value, in their order, and keeps only what its statistic needs.

    Its memory is bounded however many samples come, and its result does not depend on how they were cut into
    blocks.
    """

    def update(self, block: Block) -> None:
        """Take in the next samples."""

    def merge(self, later: Self) -> None:
        """Take in what ``later`` saw of the samples that follow. Sums may differ in their last bits."""

    def result(self) -> Statistic | None:
        """Return the statistic; None if no sample had a value that tells it."""


@dataclass(frozen=True, eq=False)
class Rescaling:
    """A value ``x`` becomes ``(x - shift) / scale``.

    Args:
        scale: Shape (C,), > 0.
        shift: Shape (C,).
        axis: The axis of ``x`` that both lie along, counted from the end.

    """

    scale: NDArray[Any]
    shift: NDArray[Any]
    axis: int

    def of(self, values: Float32) -> Float32:
        """Return what values of shape (..., C) become."""
        moved: Float32 = ((values.astype(np.float64) - self.shift) / self.scale).astype(np.float32)
        return moved


@dataclass(frozen=True, eq=False)
class Holding:
    """A value ``x`` is held between bounds: ``clip(x, low, high)``.

    Args:
        low: Shape (C,); minus infinity where nothing is held.
        high: Shape (C,), likewise.
        axis: The axis of ``x`` that both lie along, counted from the end.

    """

    low: NDArray[Any]
    high: NDArray[Any]
    axis: int

    def of(self, values: Float32) -> Float32:
        """Return what values of shape (..., C) become."""
        held: Float32 = np.clip(values, self.low, self.high).astype(np.float32)
        return held


class Known(Protocol):
    """What else is known of the same value."""

    @property
    def count(self) -> int:
        """How many elements were seen."""

    def get(self, kind: type[S], axis: int = -1) -> S | None:
        """Return one statistic, along ``axis`` if it is one by channel; None if it is not known."""


@dataclass(frozen=True, eq=False)
class Statistic(ABC):
    """What one statistic says of one value; its class is the statistic's kind.

    Each kind is a file of this package and an entry of ``STATISTICS``. What it keeps of the samples as they
    stream by is the business of its observer.
    """

    name: ClassVar[str]
    """What remarks and errors call it."""
    by_channel: ClassVar[bool] = False
    """Whether it depends on which axis counts the channels."""
    gradients: ClassVar[Literal["none", "own", "products"]] = "none"
    """Whose squared gradients it observes beside the values: nobody's, those of the values themselves, or the
    mean of those of what matrix products make of a row."""
    in_tables: ClassVar[bool] = True
    """Whether calibration tables hold it."""
    in_manifests: ClassVar[bool] = True
    """Whether the table in a manifest holds it, which is handed on with the model."""

    @staticmethod
    @abstractmethod
    def observer() -> Observer:
        """Return what measures it, before the first sample."""

    @classmethod
    def rescaled(cls, known: Known, by: Rescaling) -> Self | None:
        """Return the statistic of ``(x - shift) / scale``; None if what is known does not tell it."""
        return None

    @classmethod
    def held(cls, known: Known, by: Holding) -> Self | None:
        """Return the statistic of ``clip(x, low, high)``; None if what is known does not tell it."""
        return None

    @property
    def channels(self) -> int | None:
        """The number of channels that it tells of; None if it is not by channel."""
        return None

    @property
    def bulk(self) -> int:
        """How many entries it has, if a text that elides large weights leaves it out as well; otherwise 0."""
        return 0

    def thinned(self, most: int) -> Self:
        """Return the statistic with at most about ``most`` entries, if fewer tell nearly the same."""
        return self

    @abstractmethod
    def to_table(self) -> dict[str, Any]:
        """Return its part of an entry of a calibration table, as plain JSON values."""

    @classmethod
    @abstractmethod
    def from_table(cls, entry: Mapping[str, Any]) -> Self | None:
        """Read what ``to_table`` wrote; None if the entry holds no such part.

        Raises:
            ValueError: The part is damaged; so may be TypeError, KeyError.

        """

    @abstractmethod
    def to_fields(self) -> dict[str, Any]:
        """Return its fields of a ``# fact`` line: numbers, lists and arrays, or dictionaries of numbers."""

    @classmethod
    @abstractmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self | None:
        """Read what ``to_fields`` wrote, arrays as lists; None if the line has no such field.

        Raises:
            ValueError: The field is damaged; so may be TypeError, KeyError.

        """
