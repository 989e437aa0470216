"""What the runtime needs to know of data: a batch has feeds and, perhaps, labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Feeds = Mapping[str, Array]


class Batch(Protocol):
    """Some samples; any object with these two attributes is one.

    ``feeds`` maps input names to arrays whose first axis counts the samples. ``labels``
    has one row for each sample, or is None.
    """

    @property
    def feeds(self) -> Feeds:
        """The model's inputs by name."""
        ...

    @property
    def labels(self) -> Array | None:
        """The right answers, if they are known."""
        ...


def batch_size(feeds: Feeds) -> int:
    """Return how many samples the feeds hold: the first axis of the first that has one, else 1."""
    arrays = (array for array in feeds.values() if isinstance(array, np.ndarray) and array.ndim)
    return next(map(len, arrays), 1)
