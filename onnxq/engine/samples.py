"""Samples that are read once and kept, as long as they are small enough to keep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

from onnxq.calibration.data import Batch, Dataset
from onnxq.progress import Steps

MOST_BYTES = 256 << 20
"""Larger data is read again each time."""


@dataclass
class Kept:
    """The batches of a data set, for those who go through them again and again.

    Args:
        data: Where they come from.

    """

    data: Dataset
    _batches: list[Batch] | None = field(default=None, init=False, repr=False)

    @cached_property
    def samples(self) -> int | None:
        """How many samples there will be, for a progress bar; None if only reading can tell."""
        return self.data.samples

    @property
    def batch_size(self) -> int:
        """How many samples a full batch has."""
        return self.data.batch_size

    def digest(self, on_progress: Steps = lambda done, total: None) -> str:
        """Return the SHA-256 of all samples as the model gets them; tell how many of them are read."""
        if self._batches is None:
            done = 0
            for batch in self.batches():
                done += batch.rows
                on_progress(done, self.samples)
        return self.data.digest()

    def fit(self) -> bool:
        """Tell whether the samples are small enough to be kept, reading them if nobody has yet."""
        self.count()
        return self._batches is not None

    def count(self) -> int:
        """Return how many samples there are, reading them if nobody has yet."""
        return sum(batch.rows for batch in self.batches())

    def batches(self) -> Iterator[Batch]:
        """Yield the batches from the beginning.

        Raises:
            DataError: As ``Dataset.batches``.

        """
        if self._batches is not None:
            yield from self._batches
            return
        kept: list[Batch] | None = []
        left = MOST_BYTES
        for batch in self.data.batches():
            left -= sum(array.nbytes for array in batch.feeds.values())
            if kept is not None:
                kept.append(batch)
            if left < 0:
                kept = None
            yield batch
        self._batches = kept


class Half(Kept):
    """Every second batch: what is measured on one half is judged on the other.

    Samples are often sorted, so that a first half would be of other kinds than a second.

    Args:
        whole: Where they come from.
        first: 0 for the batches that begin with the first, 1 for the others.

    """

    def __init__(self, whole: Kept, first: int) -> None:
        """Read nothing yet."""
        super().__init__(whole.data)
        self.whole, self.first = whole, first

    @cached_property
    def samples(self) -> int:
        """How many samples there are, which are read for it."""
        return self.count()

    def digest(self, on_progress: Steps = lambda done, total: None) -> str:
        """Return what tells these samples from others."""
        return f"{self.whole.digest(on_progress)} half {self.first}"

    def fit(self) -> bool:
        """Tell whether the samples are small enough to be kept, reading them if nobody has yet."""
        return self.whole.fit()

    def batches(self) -> Iterator[Batch]:
        """Yield every second batch.

        Raises:
            DataError: As ``Dataset.batches``.

        """
        yield from islice(self.whole.batches(), self.first, None, 2)


def first_samples(batches: Iterable[Batch], count: int) -> Iterator[Batch]:
    """Yield batches until they hold ``count`` samples."""
    seen = 0
    for batch in batches:
        if seen >= count:
            return
        yield batch
        seen += batch.rows
