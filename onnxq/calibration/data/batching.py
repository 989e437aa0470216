"""Cut, join, limit and digest batches; plain functions of what they are given."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from onnxq.calibration.data.base import Batch
from onnxq.runtime.batch import Array

if TYPE_CHECKING:
    from hashlib import _Hash


def cut(batch: Batch, start: int, stop: int, carriers: frozenset[str]) -> Batch:
    """Return the samples from ``start`` to before ``stop``; inputs without samples stay whole."""
    feeds = {name: array[start:stop] if name in carriers else array for name, array in batch.feeds.items()}
    labels = None if batch.labels is None else batch.labels[start:stop]
    return Batch(feeds, labels, min(stop, batch.rows) - start)


def join(pieces: Iterable[tuple[Batch, bool]], size: int, carriers: frozenset[str]) -> Iterator[Batch]:
    """Join neighbours of equal sample shape into batches of ``size``.

    Args:
        pieces: Batches of at most ``size`` samples; True marks one of any size to be left as it is.
        size: Samples in a full batch. The last before a change of shape may be smaller.
        carriers: The inputs with samples along axis 0.

    """
    held: list[Batch] = []
    for piece, whole in pieces:
        if held and (whole or not _same_layout(held[0], piece, carriers)):
            yield _concatenate(held, carriers)
            held = []
        if whole:
            yield piece
            continue
        held.append(piece)
        if sum(batch.rows for batch in held) >= size:
            full = _concatenate(held, carriers)
            yield cut(full, 0, size, carriers)
            held = [cut(full, size, full.rows, carriers)] if full.rows > size else []
    if held:
        yield _concatenate(held, carriers)


def limited(batches: Iterable[Batch], limit: int | None, carriers: frozenset[str]) -> Iterator[Batch]:
    """Stop after ``limit`` samples, cutting the last batch where needed."""
    if limit is None:
        yield from batches
        return
    left = limit
    for batch in batches:
        yield batch if batch.rows <= left else cut(batch, 0, left, carriers)
        left -= batch.rows
        if left <= 0:
            return


@dataclass
class SampleDigest:
    """SHA-256 over samples one by one, so that the batch size does not matter."""

    carriers: frozenset[str]
    _hash: _Hash = field(default_factory=hashlib.sha256, init=False)

    def update(self, batch: Batch) -> None:
        """Add each sample: for each input its name, dtype, shape and bytes."""
        split = {
            name for name in batch.feeds if name in self.carriers and len(batch.feeds[name]) == batch.rows
        }
        for row in range(batch.rows):
            for name in sorted(batch.feeds):
                array = batch.feeds[name]
                self._add(name, array[row, ...] if name in split else array)

    def hexdigest(self) -> str:
        """Return the digest so far."""
        return self._hash.hexdigest()

    def _add(self, name: str, array: Array) -> None:
        self._hash.update(f"{name}:{array.dtype.name}{list(array.shape)}".encode())
        self._hash.update(repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes())


def _same_layout(one: Batch, other: Batch, carriers: frozenset[str]) -> bool:
    """Tell whether two batches can be joined: equal sample shapes, and equal inputs that all share."""
    return (
        one.feeds.keys() == other.feeds.keys()
        and (one.labels is None) == (other.labels is None)
        and all(
            array.shape[1:] == other.feeds[name].shape[1:]
            if name in carriers
            else np.array_equal(array, other.feeds[name])
            for name, array in one.feeds.items()
        )
    )


def _concatenate(batches: list[Batch], carriers: frozenset[str]) -> Batch:
    first = batches[0]
    if len(batches) == 1:
        return first
    feeds = {
        name: np.concatenate([batch.feeds[name] for batch in batches]) if name in carriers else array
        for name, array in first.feeds.items()
    }
    labels = [batch.labels for batch in batches if batch.labels is not None]
    return Batch(feeds, np.concatenate(labels) if labels else None, sum(batch.rows for batch in batches))
