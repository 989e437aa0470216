"""What the weights and inputs of onnxruntime's own tests are drawn from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]
"""Returns an array of a shape."""


def integers(low: int, high: int) -> Draw:
    """Return a draw from the integers ``low`` to ``high``, both included."""
    return lambda rng, shape: rng.integers(low, high + 1, shape)


def normal(mean: float, spread: float) -> Draw:
    """Return a draw from a normal distribution."""
    return lambda rng, shape: rng.normal(mean, spread, shape)


def uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Return numbers from 0 to 1."""
    return rng.uniform(size=shape)


def constant(*values: float) -> Draw:
    """Return a draw that gives ``values``, repeated to fill the shape."""
    return lambda _, shape: np.resize(np.array(values), shape)


def either(*values: float) -> Draw:
    """Return a draw that gives one of the values throughout."""
    return lambda rng, shape: np.full(shape, rng.choice(values))
