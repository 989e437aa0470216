"""A bounded, seeded sample of whole rows: vectors along the channel axis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from onnxq.quant.statistics.base import Block, Float32, Holding, Known, Rescaling
from onnxq.quant.statistics.by_channel import ChannelArray

LIMITS = (64, 512)
"""The fewest and the most rows that are kept of one value."""

ELEMENTS = 1 << 18
"""The number of elements (1 MB) that decides between the two limits."""

EMPTY = np.uint64(2**64 - 1)
"""The hash of a slot without a row."""

Places = NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class Rows(ChannelArray):
    """Sampled rows in the order in which they came, shape (R, C). They are pieces of the data itself."""

    name = "rows"
    rank = 2
    in_manifests = False

    @staticmethod
    def observer() -> RowsObserver:
        """Return one without rows, at the beginning of the stream."""
        return RowsObserver()

    @classmethod
    def rescaled(cls, known: Known, by: Rescaling) -> Self | None:
        """Return the rows moved."""
        before = known.get(cls, by.axis)
        return None if before is None else cls(by.of(before.values))

    @classmethod
    def held(cls, known: Known, by: Holding) -> Self | None:
        """Return the rows held."""
        before = known.get(cls, by.axis)
        return None if before is None else cls(by.of(before.values))

    @property
    def bulk(self) -> int:
        """All numbers."""
        return self.values.size

    def thinned(self, most: int) -> Self:
        """Return the first rows."""
        return type(self)(self.values[: max(1, most // max(1, self.channels))])


class RowsObserver:
    """A uniform sample of rows: those whose place in the stream has the smallest hashes.

    Args:
        start: The place of the first row. One whose rows come after another's starts behind that one's end:
            where it cannot be known, at any number that is larger for certain.
        limit: How many rows are kept; None for as many as ``row_limit`` says of their channels.

    Source:
        Bottom-k sampling: Cohen and Kaplan, 2007, "Summarizing data using bottom-k sketches".

    """

    def __init__(self, start: int = 0, limit: int | None = None) -> None:
        """Start without rows."""
        self.end, self.limit = start, limit
        self.rows: Float32 = np.empty((0, 0), np.float32)
        self.places: Places = np.empty(0, np.uint64)
        self.hashes: Places = np.empty(0, np.uint64)

    def update(self, block: Block) -> None:
        """Let the block's rows compete with the kept ones."""
        view = np.moveaxis(block.values, block.axis, -1)
        first, self.end = self.end, self.end + view.size // max(view.shape[-1], 1)

        def rows_at(places: Places) -> Float32:
            at = (places - np.uint64(first)).astype(np.intp)
            rows: Float32 = view[np.unravel_index(at, view.shape[:-1])]
            return rows

        self._compete(np.arange(first, self.end, dtype=np.uint64), rows_at, view.shape[-1])

    def merge(self, later: RowsObserver) -> None:
        """Let the other's rows compete with the kept ones.

        Raises:
            ValueError: Its rows do not come after these.

        """
        places, rows = later._kept()
        if len(places) and places[0] < self.end:
            raise ValueError(f"rows from {places[0]} on cannot follow those up to {self.end}")
        self._compete(places, lambda wanted: rows[np.searchsorted(places, wanted)], rows.shape[-1])
        self.end = max(self.end, later.end)

    def _compete(self, places: Places, rows_at: Callable[[Places], Float32], channels: int) -> None:
        """Write winners among ``places``, which rise, into losers' slots."""
        if not len(places):
            return
        if not len(self.hashes):
            self._make_room(channels)
        hashes = _hash(places)
        winning = hashes < self.hashes.max()
        places, hashes = places[winning], hashes[winning]
        best = np.argsort(np.concatenate([self.hashes, hashes]))[: len(self.hashes)]
        fresh = best[best >= len(self.hashes)] - len(self.hashes)
        lost = np.ones(len(self.hashes), np.bool_)
        lost[best[best < len(self.hashes)]] = False
        slots = np.flatnonzero(lost)
        self.rows[slots], self.places[slots] = rows_at(places[fresh]), places[fresh]
        self.hashes[slots] = hashes[fresh]

    def _make_room(self, channels: int) -> None:
        """Take the memory once, so that the heap stays as it is; an empty slot loses to every row."""
        limit = self.limit or row_limit(channels)
        self.rows = np.zeros((limit, channels), np.float32)
        self.places = np.zeros(limit, np.uint64)
        self.hashes = np.full(limit, EMPTY, np.uint64)

    def _kept(self) -> tuple[Places, Float32]:
        """Return places and rows in the order in which they came."""
        filled = np.flatnonzero(self.hashes != EMPTY)
        order = filled[np.argsort(self.places[filled])]
        return self.places[order], self.rows[order]

    def result(self) -> Rows | None:
        """Return the rows."""
        places, rows = self._kept()
        return Rows(rows) if len(places) else None


def row_limit(channels: int) -> int:
    """Return how many rows of so many channels are kept."""
    least, most = LIMITS
    return min(max(ELEMENTS // max(channels, 1), least), most)


def _hash(places: Places) -> Places:
    """Scatter the numbers 0, 1, 2, ...; no two get the same hash.

    Source:
        SplitMix64: Steele, Lea and Flood, 2014, "Fast splittable pseudorandom number generators".

    """
    mixed = (places + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
