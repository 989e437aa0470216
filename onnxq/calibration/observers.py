"""Observers: they take a value's samples as they stream by and keep only what the facts need.

Every observer's memory is bounded however many samples come, and its result does not depend on how the
samples were cut into batches: ranges, counts and histograms add up, the moving average runs over samples, and
the sampled rows are chosen by their place in the stream alone. The histogram's bins are those of the number
format, so one pass over the data is enough.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxq.errors import PreconditionError
from onnxq.quant.facts import BY_CHANNEL, ChannelFacts, Facts, Need, Stat
from onnxq.quant.histogram import Histogram

MOMENTUM = 0.9
"""How much of the moving average stays with each new sample."""

ROW_LIMITS = (64, 512)
"""The fewest and the most rows that are kept of one value."""

ROW_ELEMENTS = 1 << 18
"""The number of elements (1 MB) that decides between the two limits."""

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Block:
    """Some samples of one value.

    Args:
        values: Shape (N, ...), rank 2 or more; axis 0 counts the samples.
        axis: The channel axis, negative.

    """

    values: Float32
    axis: int

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


class Observer(Protocol):
    """Keeps one statistic of one value."""

    def update(self, block: Block) -> None:
        """Take in the next samples."""

    def result(self) -> dict[str, Any]:
        """Return the fields of ``Facts`` or ``ChannelFacts`` that this statistic fills."""


class RangeObserver:
    """Smallest and largest value, and the number of values."""

    def __init__(self) -> None:
        """Start with an empty range."""
        self.count, self.low, self.high = 0, np.inf, -np.inf

    def update(self, block: Block) -> None:
        """Widen the range."""
        self.count += block.values.size
        self.low = min(self.low, float(block.low.min()))
        self.high = max(self.high, float(block.high.max()))

    def result(self) -> dict[str, Any]:
        """Return count, low and high."""
        return {"count": self.count, "low": self.low, "high": self.high}


class AverageObserver:
    """Exponential moving average of each sample's smallest and largest value, in the order of the samples."""

    def __init__(self) -> None:
        """Start without an average: the first sample sets it."""
        self.average: tuple[float, float] | None = None

    def update(self, block: Block) -> None:
        """Move the average by one step for each sample."""
        for low, high in zip(block.low.min(axis=1).tolist(), block.high.max(axis=1).tolist(), strict=True):
            old_low, old_high = self.average or (low, high)
            self.average = (
                MOMENTUM * old_low + (1 - MOMENTUM) * low,
                MOMENTUM * old_high + (1 - MOMENTUM) * high,
            )

    def result(self) -> dict[str, Any]:
        """Return the average."""
        return {"average": self.average}


class ChannelRangeObserver:
    """Smallest and largest value of each channel."""

    def __init__(self) -> None:
        """Start without ranges: the first block sets them."""
        self.low: Float32 | None = None
        self.high: Float32 | None = None

    def update(self, block: Block) -> None:
        """Widen the ranges."""
        low, high = block.low.min(axis=0), block.high.max(axis=0)
        self.low = low if self.low is None else np.minimum(self.low, low)
        self.high = high if self.high is None else np.maximum(self.high, high)

    def result(self) -> dict[str, Any]:
        """Return both ends, each of shape (C,)."""
        return {"low": self.low, "high": self.high}


class MeanObserver:
    """The mean of each channel: one sum for each sample, so that batches do not matter."""

    def __init__(self) -> None:
        """Start with empty sums that take any number of channels."""
        self.sums, self.count = np.zeros(1), 0

    def update(self, block: Block) -> None:
        """Add the samples up in float64, one after the other."""
        for sample in np.moveaxis(block.values, block.axis, 1):
            rows = sample.reshape(len(sample), -1)
            self.sums = self.sums + rows.sum(axis=1, dtype=np.float64)
            self.count += rows.shape[1]

    def result(self) -> dict[str, Any]:
        """Return the mean, shape (C,)."""
        return {"mean": (self.sums / self.count).astype(np.float32) if self.count else None}


class HistogramObserver:
    """Counts by the bins of ``Histogram``."""

    def __init__(self) -> None:
        """Start with empty bins."""
        self.counts = Histogram.of(np.empty(0, np.float32)).counts

    def update(self, block: Block) -> None:
        """Count the values."""
        self.counts += Histogram.of(block.values).counts

    def result(self) -> dict[str, Any]:
        """Return the histogram."""
        return {"histogram": Histogram(self.counts)}


EMPTY = np.uint64(2**64 - 1)
"""The hash of a slot without a row."""


class RowsObserver:
    """A uniform sample of rows: those whose place in the stream has the smallest hashes.

    Source:
        Bottom-k sampling: Cohen and Kaplan, 2007, "Summarizing data using bottom-k sketches".

    """

    def __init__(self) -> None:
        """Start without rows."""
        self.seen = 0
        self.rows: Float32 = np.empty((0, 0), np.float32)
        self.places = np.empty(0, np.uint64)
        self.hashes = np.empty(0, np.uint64)

    def update(self, block: Block) -> None:
        """Let the block's rows compete with the kept ones; winners are written into losers' slots."""
        view = np.moveaxis(block.values, block.axis, -1)
        if not len(self.hashes):
            self._make_room(view.shape[-1])
        places = np.arange(self.seen, self.seen + view.size // max(view.shape[-1], 1), dtype=np.uint64)
        places = places[_hash(places) < self.hashes.max()]
        best = np.argsort(np.concatenate([self.hashes, _hash(places)]))[: len(self.hashes)]
        fresh = places[best[best >= len(self.hashes)] - len(self.hashes)]
        slots = np.setdiff1d(np.arange(len(self.hashes)), best)
        at = np.unravel_index((fresh - np.uint64(self.seen)).astype(np.intp), view.shape[:-1])
        self.rows[slots], self.places[slots], self.hashes[slots] = view[at], fresh, _hash(fresh)
        self.seen += view.size // max(view.shape[-1], 1)

    def _make_room(self, channels: int) -> None:
        """Take the memory once, so that the heap stays as it is; an empty slot loses to every row."""
        limit = _row_limit(channels)
        self.rows = np.zeros((limit, channels), np.float32)
        self.places = np.zeros(limit, np.uint64)
        self.hashes = np.full(limit, EMPTY, np.uint64)

    def result(self) -> dict[str, Any]:
        """Return the rows in the order in which they came, shape (R, C)."""
        filled = self.hashes != EMPTY
        return {"rows": self.rows[filled][np.argsort(self.places[filled])] if filled.any() else None}


GRAM_ROWS = 256
"""How many rows are multiplied at a time; their number and order in the stream alone decide the rounding."""


class GramObserver:
    """Products of channels over all rows, summed in float64 and multiplied in float32."""

    def __init__(self) -> None:
        """Start without rows."""
        self.gram: NDArray[np.float64] = np.empty((0, 0))
        self.rows: Float32 = np.empty((0, 0), np.float32)
        self.filled = 0

    def update(self, block: Block) -> None:
        """Gather rows, and multiply them whenever there are enough."""
        rows = np.moveaxis(block.values, block.axis, -1).reshape(-1, block.values.shape[block.axis])
        if not len(self.rows):
            self.rows = np.empty((GRAM_ROWS, rows.shape[1]), np.float32)
            self.gram = np.zeros((rows.shape[1], rows.shape[1]))
        while len(rows):
            fitting = rows[: GRAM_ROWS - self.filled]
            self.rows[self.filled : self.filled + len(fitting)] = fitting
            self.filled += len(fitting)
            rows = rows[len(fitting) :]
            if self.filled == GRAM_ROWS:
                self._multiply()

    def _multiply(self) -> None:
        rows = self.rows[: self.filled]
        self.gram += rows.T @ rows
        self.filled = 0

    def result(self) -> dict[str, Any]:
        """Return the matrix of shape (C, C)."""
        self._multiply()
        return {"gram": self.gram.astype(np.float32) if self.gram.size else None}


OBSERVERS: Mapping[Stat, type[Observer]] = {
    Stat.RANGE: RangeObserver,
    Stat.AVERAGE: AverageObserver,
    Stat.CHANNEL_RANGE: ChannelRangeObserver,
    Stat.MEAN: MeanObserver,
    Stat.HISTOGRAM: HistogramObserver,
    Stat.ROWS: RowsObserver,
    Stat.GRAM: GramObserver,
}
"""The class that measures each statistic."""


class ValueObserver:
    """All statistics that are wanted of one value, its channels along one axis or several.

    Args:
        needs: The wishes for this value, all of the same ``value``; the range is always measured.

    """

    def __init__(self, needs: Iterable[Need]) -> None:
        """Make one observer for each statistic, and for those by channel one for each axis."""
        needs = tuple(needs)
        self.name = needs[0].value
        wanted = {Stat.RANGE}.union(*(need.stats for need in needs))
        self._whole = _observers(wanted - BY_CHANNEL)
        by_axis: dict[int, frozenset[Stat]] = {}
        for need in needs:
            by_axis[need.axis] = by_axis.get(need.axis, frozenset()) | need.stats & BY_CHANNEL
        self._along = {axis: _observers(stats) for axis, stats in sorted(by_axis.items()) if stats}
        self._channels: dict[int, int] = {}

    def blocks(self, values: Float32, rank: int) -> dict[int, Block]:
        """Wrap samples for ``update``, by channel axis; where no channels are wanted, along the last axis.

        Args:
            values: Shape (N, ...); the leading axes may have been split since the model returned them.
            rank: The number of axes that the value has in the model.

        Raises:
            PreconditionError: Channels are wanted, and their axis is no axis behind the samples.

        """
        if rank < 2:
            return dict.fromkeys(self._along or [-1], Block(values[..., np.newaxis], -1))
        for axis in self._along:
            if axis <= -rank:
                raise PreconditionError(
                    f"axis {axis} of {rank} axes cannot hold its channels", where=f"value {self.name!r}"
                )
        return {axis: Block(values, axis) for axis in self._along or [-1]}

    def update(self, blocks: Mapping[int, Block]) -> None:
        """Take in the next samples.

        Raises:
            PreconditionError: The number of channels differs from that of earlier samples.

        """
        for whole in self._whole:
            whole.update(next(iter(blocks.values())))
        for axis, observers in self._along.items():
            block = blocks[axis]
            found = block.values.shape[block.axis]
            if found != (known := self._channels.setdefault(axis, found)):
                raise PreconditionError(
                    f"its axis {axis} has {known} channels in one sample and {found} in another",
                    where=f"value {self.name!r}",
                )
            for observer in observers:
                observer.update(block)

    def facts(self) -> Facts:
        """Return what was measured so far."""
        along = {axis: ChannelFacts(**_results(observers)) for axis, observers in self._along.items()}
        return Facts(channels=along, **_results(self._whole))


def observe_array(array: NDArray[Any], stats: Iterable[Stat], axis: int = -1) -> Facts:
    """Return the facts of an array that is known without data, such as a weight.

    Args:
        array: Any shape; floating point. It counts as one sample.
        stats: What to measure.
        axis: The channel axis of ``array``, counted from the end.

    """
    observer = ValueObserver([Need("array", frozenset(stats), axis)])
    values = np.asarray(array, np.float32)[np.newaxis]
    observer.update(observer.blocks(values if values.ndim > 1 else values.reshape(1, 1), array.ndim + 1))
    return observer.facts()


def _observers(stats: Iterable[Stat]) -> list[Observer]:
    return [OBSERVERS[stat]() for stat in sorted(stats, key=lambda stat: stat.value)]


def _results(observers: Iterable[Observer]) -> dict[str, Any]:
    return {name: part for observer in observers for name, part in observer.result().items()}


def _row_limit(channels: int) -> int:
    least, most = ROW_LIMITS
    return min(max(ROW_ELEMENTS // max(channels, 1), least), most)


def _hash(places: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scatter the numbers 0, 1, 2, ...; no two get the same hash.

    Source:
        SplitMix64: Steele, Lea and Flood, 2014, "Fast splittable pseudorandom number generators".

    """
    mixed = (places + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
