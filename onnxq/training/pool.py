"""The samples that are learned from, in memory, in an order that depends on the seed alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Part:
    """Samples as they were read.

    Args:
        arrays: What the graph is fed, by name.
        rows: How many samples.
        labels: One for each, if they are known.

    """

    arrays: Arrays
    rows: int
    labels: NDArray[Any] | None = None

    def owns(self, name: str) -> bool:
        """Tell whether axis 0 of an array counts the samples."""
        array = self.arrays[name]
        return array.ndim > 0 and len(array) == self.rows


@dataclass(frozen=True)
class Pool:
    """Samples to draw batches from.

    Samples of one shape are drawn one by one, each once in an epoch; where shapes differ, as those of texts
    that are padded to their batch, the batches as they were read are.

    Args:
        parts: The samples.
        batch: How many are drawn at a time.
        seed: Of the order.

    """

    parts: Sequence[Part]
    batch: int
    seed: int = 0

    @cached_property
    def _joined(self) -> Part | None:
        """All samples together; None where their shapes differ."""
        first = self.parts[0]
        names = [name for name in first.arrays if first.owns(name)]
        if any(
            not part.owns(name) or part.arrays[name].shape[1:] != first.arrays[name].shape[1:]
            for part in self.parts
            for name in names
        ):
            return None
        joined = {name: np.concatenate([part.arrays[name] for part in self.parts]) for name in names}
        return Part({**first.arrays, **joined}, sum(part.rows for part in self.parts))

    @property
    def units(self) -> int:
        """How many batches make an epoch; what is left over waits for another order."""
        whole = self._joined
        return len(self.parts) if whole is None else max(whole.rows // self.batch, 1)

    def drawn(self, step: int) -> Part:
        """Return the batch of a step, the same whenever it is asked for."""
        epoch, place = divmod(step, self.units)
        whole = self._joined
        if whole is None:
            return self.parts[int(self._order(epoch, len(self.parts))[place])]
        chosen = self._order(epoch, whole.rows)[place * self.batch : (place + 1) * self.batch]
        drawn = {
            name: array[chosen] if self.parts[0].owns(name) else array for name, array in whole.arrays.items()
        }
        return Part(drawn, len(chosen))

    def _order(self, epoch: int, count: int) -> NDArray[Any]:
        return np.random.default_rng([self.seed, epoch]).permutation(count)
