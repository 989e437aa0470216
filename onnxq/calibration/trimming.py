"""Trimming: samples without the padding at their end, which costs as much to run as tokens do.

What follows the last real token of a sample is cut off, up to a multiple of ``STEP``, and each sample runs by
itself, so that its numbers do not depend on how samples were batched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxq.calibration.masks import MASK_INPUT, Axes, cut
from onnxq.errors import ModelError
from onnxq.runtime.batch import Feeds
from onnxq.runtime.session import Session

STEP = 16
"""Lengths are multiples of it: kernels compute no faster in between."""


class Fed(Protocol):
    """A batch, as far as its inputs go."""

    @property
    def feeds(self) -> Feeds:
        """The model's inputs by name."""


class Sized(Fed, Protocol):
    """One that tells how many samples it has."""

    @property
    def rows(self) -> int:
        """The number of samples."""


B = TypeVar("B", bound=Fed)


@dataclass(frozen=True)
class Trimmed:
    """One sample, without the padding at its end."""

    feeds: Feeds
    rows: int = 1
    labels: None = None


def trimmed(batches: Iterable[B], session: Session) -> Iterator[B | Trimmed]:
    """Yield the samples of batches that ``attention_mask`` shows to be padded at the end; others as they are.

    Args:
        batches: The samples.
        session: What shall run them; a sample whose length it does not take keeps all tokens.

    """
    taken: dict[int, bool] = {}
    for batch in batches:
        lengths = _lengths(batch, session)
        if lengths is None:
            yield batch
            continue
        for row, length in enumerate(lengths):
            short = _sample(batch, session, row, length)
            if length not in taken:
                taken[length] = _runs(session, short.feeds)
            yield short if taken[length] else _sample(batch, session, row, None)


def one_by_one(batch: Sized, shapes: Mapping[str, Axes]) -> Iterator[Trimmed]:
    """Yield the samples of a batch, or the batch where the model's inputs have room for all of them alone.

    Args:
        batch: The samples; inputs that no sample owns go to each.
        shapes: The inputs' shapes in the model; the first axis of one that counts the samples has a name.

    """
    owned = {name for name, array in batch.feeds.items() if _counts(array, batch.rows, shapes.get(name))}
    if not owned:
        yield Trimmed(batch.feeds, batch.rows)
        return
    for row in range(batch.rows):
        one = slice(row, row + 1)
        yield Trimmed({name: array[one] if name in owned else array for name, array in batch.feeds.items()})


def _counts(array: NDArray[Any], rows: int, shape: Axes | None) -> bool:
    """Tell whether the first axis counts the samples."""
    return array.ndim > 0 and len(array) == rows and bool(shape and not isinstance(shape[0], int))


def _lengths(batch: Fed, session: Session) -> list[int] | None:
    """Return how many tokens each sample keeps; None where there is nothing to cut."""
    mask, shape = batch.feeds.get(MASK_INPUT), _shapes(session).get(MASK_INPUT)
    if mask is None or shape is None or len(shape) != 2 or not all(isinstance(axis, str) for axis in shape):
        return None
    tokens = mask.shape[1]
    real = tokens - np.argmax(mask[:, ::-1] != 0, axis=1)  # all of them if none is real
    lengths = np.minimum(-(-real // STEP) * STEP, tokens)
    return None if (lengths == tokens).all() else lengths.tolist()


def _sample(batch: Fed, session: Session, row: int, tokens: int | None) -> Trimmed:
    return Trimmed(cut(batch.feeds, _shapes(session), slice(row, row + 1), tokens))


def _shapes(session: Session) -> dict[str, Axes]:
    return {spec.name: spec.shape for spec in session.inputs}


def _runs(session: Session, feeds: Feeds) -> bool:
    try:
        session.run(feeds)
    except ModelError:
        return False
    return True
