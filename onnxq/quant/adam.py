"""Adam: steps along a gradient, as long in each direction as its recent gradients agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import EllipsisType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

MOMENTUM, MEMORY, LEAST = 0.9, 0.999, 1e-12
"""How much stays of the mean gradient, and of its mean square; what keeps the quotient finite."""

PIECE = 1 << 14
"""Elements that are worked on at a time, so that what lies in between stays in the cache."""


def pieces(array: Array) -> Iterator[slice | EllipsisType]:
    """Yield parts of an array, by rows of axis 0; all of one that has no axis."""
    if array.ndim == 0:
        yield ...
        return
    rows = max(PIECE * len(array) // max(array.size, 1), 1)
    yield from (slice(start, start + rows) for start in range(0, len(array), rows))


@dataclass
class Adam:
    """The state of one array of parameters.

    Args:
        parameters: Any shape; they are moved in place.

    Source:
        Kingma and Ba, 2015, arXiv:1412.6980.

    """

    parameters: Array
    _mean: Array = field(init=False)
    _square: Array = field(init=False)
    _steps: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        """Begin at rest."""
        self._mean, self._square = np.zeros_like(self.parameters), np.zeros_like(self.parameters)
        self._steps = np.zeros((), np.int64)

    @property
    def state(self) -> dict[str, NDArray[Any]]:
        """What a later run goes on with: arrays that are written to in place."""
        return {"mean": self._mean, "square": self._square, "steps": self._steps}

    def step(self, gradient: Array, rate: float) -> None:
        """Move by at most about ``rate`` in each direction."""
        self._steps += 1
        steps = int(self._steps)
        length = np.float32(rate / (1 - MOMENTUM**steps))
        grown = np.float32(1 / (1 - MEMORY**steps))
        for part in pieces(self.parameters):
            slope = gradient[part]
            self._mean[part] += (1 - MOMENTUM) * (slope - self._mean[part])
            self._square[part] += (1 - MEMORY) * (slope * slope - self._square[part])
            root = np.sqrt(self._square[part] * grown) + np.float32(LEAST)
            self.parameters[part] -= length * self._mean[part] / root
