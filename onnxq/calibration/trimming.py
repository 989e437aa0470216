"""Trimming: samples without the padding at their end, which costs as much to run as tokens do.

What follows the last real token of a sample is cut off, up to a multiple of ``STEP``, and each sample runs by
itself, so that its numbers do not depend on how samples were batched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from onnxq.calibration.masks import MASK_INPUT, cut
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
        session: What shall run them; where it does not take fewer tokens, nothing is cut.

    """
    taken: bool | None = None
    for batch in batches:
        samples = _samples(batch, session)
        if samples and taken is None:
            taken = _runs(session, samples[0].feeds)
        if samples and taken:
            yield from samples
        else:
            yield batch


def _samples(batch: Fed, session: Session) -> list[Trimmed]:
    """Return the samples one by one; none where there is nothing to cut."""
    mask = batch.feeds.get(MASK_INPUT)
    shapes = {spec.name: spec.shape for spec in session.inputs}
    if mask is None or mask.ndim != 2 or not all(isinstance(axis, str) for axis in shapes[MASK_INPUT]):
        return []
    tokens = mask.shape[1]
    real = tokens - np.argmax(mask[:, ::-1] != 0, axis=1)  # 0 if no token is real: all are kept
    lengths = np.minimum(-(-real // STEP) * STEP, tokens)
    if (lengths == tokens).all():
        return []
    return [
        Trimmed(cut(batch.feeds, shapes, slice(row, row + 1), int(length)))
        for row, length in enumerate(lengths)
    ]


def _runs(session: Session, feeds: Feeds) -> bool:
    try:
        session.run(feeds)
    except ModelError:
        return False
    return True
