"""Gradient descent with momentum: steps along a running mean of the gradient."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from onnxq.quant.adam import Array

MOMENTUM = 0.9
"""How much of a step is that of the one before."""


@dataclass
class Momentum:
    """The state of one array of parameters.

    Args:
        parameters: Any shape; they are moved in place.

    Source:
        Sutskever et al., 2013, "On the importance of initialization and momentum in deep learning".

    """

    parameters: Array
    _velocity: Array = field(init=False)

    def __post_init__(self) -> None:
        """Begin at rest."""
        self._velocity = np.zeros_like(self.parameters)

    @property
    def state(self) -> dict[str, Array]:
        """What a later run goes on with: arrays that are written to in place."""
        return {"velocity": self._velocity}

    def step(self, gradient: Array, rate: float) -> None:
        """Move by ``rate`` times the velocity."""
        self._velocity *= np.float32(MOMENTUM)
        self._velocity += gradient
        self.parameters -= np.float32(rate) * self._velocity
