"""Rounding that is learned: for each weight how far it lies between the two grid values around it.

A number V stands for ``h = clip(sigmoid(V) * 1.2 - 0.1, 0, 1)``, and the weight is the grid value below it
plus h steps. While a loss is brought down, a regularizer drives every h to one of the ends.

Source: Nagel et al., 2020, arXiv:2004.10568 (AdaRound).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onnxq.quant.adam import Adam, pieces
from onnxq.quant.encodings import Encoding

Array = NDArray[np.float32]

STRETCH, SHIFT = 1.2, -0.1
"""The sigmoid is stretched so that h reaches its ends, where its slope ends too."""

FREE = 0.2
"""The first part of the steps, in which nothing drives h to its ends."""

SHARP, ROUND = 20.0, 2.0
"""The regularizer's exponent falls from the first to the second: first it is flat but for the ends."""


@dataclass
class SoftRounding:
    """One weight while its rounding is learned.

    Args:
        below: The grid value below each weight, in steps from the zero point.
        scale: The step of each weight.
        low: The smallest value of the grid, in steps from the zero point, for each weight.
        high: The largest.
        place: V, of which h is computed; it is moved.

    """

    below: Array
    scale: Array
    low: Array
    high: Array
    place: Array
    _adam: Adam = field(init=False)

    def __post_init__(self) -> None:
        """Begin at rest."""
        self._adam = Adam(self.place)

    @classmethod
    def of(cls, weight: NDArray[np.floating[Any]], encoding: Encoding) -> Self:
        """Begin where every weight is as it was, but for what the grid cuts off; any shape."""
        scale, zero = encoding.spread(weight.shape)
        steps = weight.astype(np.float32) / scale
        below = np.floor(steps)
        low, high = (np.asarray(limit - zero, np.float32) for limit in encoding.limits)
        inner = np.clip((steps - below - SHIFT) / STRETCH, 1e-4, 1 - 1e-4)
        return cls(below, scale, low, high, np.log(inner / (1 - inner)).astype(np.float32))

    @property
    def share(self) -> Array:
        """The part of a step by which each weight lies above the grid value below it: h."""
        return _stretched(_sigmoid(self.place))

    @property
    def decided(self) -> bool:
        """Whether every weight is one of the two."""
        share = self.share
        return bool(((share == 0) | (share == 1)).all())

    @property
    def soft(self) -> Array:
        """The weight, between grid values."""
        return self._of(lambda place: _stretched(_sigmoid(place)))

    @property
    def hard(self) -> Array:
        """The weight on its grid."""
        return self._of(lambda place: (place >= 0).astype(np.float32))

    def _of(self, share: Callable[[Array], Array]) -> Array:
        values = np.empty_like(self.place)
        for part in pieces(values):
            steps = self.below[part] + share(self.place[part])
            values[part] = np.clip(steps, self.low[part], self.high[part]) * self.scale[part]
        return values

    def step(self, gradient: Array, done: float, strength: float, rate: float) -> None:
        """Move V along the gradient of the loss and of the regularizer.

        Args:
            gradient: That of the loss by the soft weight.
            done: The part of all steps that is done.
            strength: How much each weight's regularizer counts, which is 1 midway between grid values.
            rate: By how much V moves at most, about.

        """
        slope = np.empty_like(self.place)
        for part in pieces(self.place):
            slope[part] = self._slope(part, gradient[part], done, strength)
        self._adam.step(slope, rate)

    def _slope(self, part: Any, gradient: Array, done: float, strength: float) -> Array:
        """Return the gradient by V of a part of the weights."""
        inner = _sigmoid(self.place[part])
        share = _stretched(inner)
        steps = self.below[part] + share
        slope = gradient * self.scale[part] * ((steps > self.low[part]) & (steps < self.high[part]))
        if done > FREE:
            slope += np.float32(strength) * _regularizer_slope(share, _exponent(done))
        slope *= inner * (1 - inner) * np.float32(STRETCH) * ((share > 0) & (share < 1))
        found: Array = slope
        return found


def _stretched(inner: Array) -> Array:
    share: Array = np.clip(inner * np.float32(STRETCH) + np.float32(SHIFT), 0, 1)
    return share


def _regularizer_slope(share: Array, exponent: float) -> Array:
    """Return the slope of ``1 - |2h - 1|^exponent``."""
    off = 2 * share - 1
    steep = np.abs(off) ** np.float32(exponent - 1)
    slope: Array = (np.sign(off) * steep * np.float32(-2 * exponent)).astype(np.float32)
    return slope


def _exponent(done: float) -> float:
    part = (done - FREE) / (1 - FREE)
    return ROUND + (SHARP - ROUND) * (1 + math.cos(math.pi * part)) / 2


def _sigmoid(values: Array) -> Array:
    found: Array = np.reciprocal(1 + np.exp(-values), dtype=np.float32)
    return found
