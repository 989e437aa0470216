"""Adam: steps along a gradient, as long in each direction as its recent gradients agree."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

MOMENTUM, MEMORY, LEAST = 0.9, 0.999, 1e-12
"""How much stays of the mean gradient, and of its mean square; what keeps the quotient finite."""


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
    _steps: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Begin at rest."""
        self._mean, self._square = np.zeros_like(self.parameters), np.zeros_like(self.parameters)

    def step(self, gradient: Array, rate: float) -> None:
        """Move by at most about ``rate`` in each direction."""
        self._steps += 1
        self._mean += (1 - MOMENTUM) * (gradient - self._mean)
        self._square += (1 - MEMORY) * (gradient * gradient - self._square)
        mean = rate / (1 - MOMENTUM**self._steps)
        root = np.sqrt(self._square * np.float32(1 / (1 - MEMORY**self._steps))) + np.float32(LEAST)
        self.parameters -= np.float32(mean) * self._mean / root
