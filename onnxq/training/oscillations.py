"""Weights that flip between two integers for ever, and what cures them.

Straight through a rounding, a weight whose best value lies between two grid points is driven across the
border between them again and again. The output it gives then depends on where training happens to end.

Source: Nagel et al., 2022, arXiv:2203.11086 (Overcoming Oscillations in Quantization-Aware Training).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.training.learned import Array, Gridded, Learned

MEMORY = 0.01
"""How much the newest step counts in frequencies, and in the mean of the integers."""

OSCILLATES = 0.005
"""A weight that flips back more often, by its running frequency, counts as one that oscillates."""

FREE = 0.25
"""The first part of the steps, in which nothing is cured."""

LOOSE, TIGHT = 0.1, 3 * MEMORY
"""How often a weight may flip before it is frozen: at first, and in the end; once is ``MEMORY``."""

WIDEST = 7
"""Weights whose largest integer is larger do not matter: their steps are short."""


def risen(done: float) -> float:
    """Return how far a cure has come, from 0 at ``FREE`` along half a cosine to 1."""
    return (1 - math.cos(math.pi * max(done - FREE, 0) / (1 - FREE))) / 2


@dataclass
class Oscillations:
    """How often the integers of one weight flip back.

    Args:
        weight: The weight.
        frequency: For each element the running mean of how often it flipped back.
        mean: The running mean of its integers.

    """

    weight: Gridded
    frequency: NDArray[np.float32] = field(init=False)
    mean: NDArray[np.float32] = field(init=False)
    _last: NDArray[np.float32] = field(init=False)
    _direction: NDArray[np.int8] = field(init=False)

    def __post_init__(self) -> None:
        """Begin at rest."""
        self._last = self.weight.integers.astype(np.float32)
        self.mean, self.frequency = self._last.copy(), np.zeros_like(self._last)
        self._direction = np.zeros(self._last.shape, np.int8)

    @property
    def share(self) -> float:
        """The part of the weights that oscillates."""
        return float((self.frequency > OSCILLATES).mean())

    @property
    def state(self) -> dict[str, Array]:
        """What a later run goes on with."""
        return {
            "frequency": self.frequency,
            "mean": self.mean,
            "last": self._last,
            "direction": self._direction,
        }

    def before(self, slopes: dict[str, Array], done: float) -> None:
        """Change nothing."""

    def after(self, done: float) -> None:
        """Look where the integers went."""
        now = self.weight.integers
        direction = np.sign(now - self._last).astype(np.int8)
        moved = direction != 0
        back = moved & (direction == -self._direction)
        self.frequency += np.float32(MEMORY) * (back - self.frequency)
        self.mean += np.float32(MEMORY) * (now - self.mean)
        self._direction[moved] = direction[moved]
        self._last[...] = now


@dataclass
class Dampening:
    """Draws weights to the middle between two borders: ``strength |w - rounded(w)|^2`` is added to the loss.

    It is the sum over output channels of the mean within each, and its strength rises from 0.

    Args:
        weight: The weight.
        strength: How much it counts in the end.

    """

    weight: Gridded
    strength: float

    @property
    def state(self) -> dict[str, Array]:
        """Nothing."""
        return {}

    def before(self, slopes: dict[str, Array], done: float) -> None:
        """Add its gradient, where nothing saturates."""
        one = self.weight
        factor = 2 * self.strength * risen(done) * one.begun.scale.size / one.array.size
        slopes[one.name] = slopes[one.name] + np.float32(factor) * one.off_grid

    def after(self, done: float) -> None:
        """Change nothing."""


@dataclass
class Freezing:
    """Freezes weights that flip too often, each at the integer where it was most of the time.

    Args:
        oscillations: How often they flip.
        frozen: Which are frozen: they stay at their integer, wherever the scales go.

    """

    oscillations: Oscillations
    frozen: NDArray[np.bool_] = field(init=False)
    _integers: NDArray[np.float32] = field(init=False)

    def __post_init__(self) -> None:
        """Begin with none."""
        self.frozen = np.zeros(self.oscillations.frequency.shape, np.bool_)
        self._integers = np.zeros_like(self.oscillations.frequency)

    @property
    def state(self) -> dict[str, Array]:
        """What a later run goes on with."""
        return {"frozen": self.frozen, "integers": self._integers}

    def before(self, slopes: dict[str, Array], done: float) -> None:
        """Let nothing pull at what is frozen."""
        name = self.oscillations.weight.name
        slopes[name] = np.where(self.frozen, np.float32(0), slopes[name])

    def after(self, done: float) -> None:
        """Freeze what flipped too often, and hold what is frozen."""
        one = self.oscillations.weight
        if done >= FREE:
            most = LOOSE + (TIGHT - LOOSE) * risen(done)
            new = (self.oscillations.frequency > most) & ~self.frozen
            self._integers[new] = np.rint(self.oscillations.mean[new])
            self.frozen |= new
            self.oscillations.frequency[self.frozen] = 0
        one.place(self._integers, self.frozen)


Cure = Oscillations | Dampening | Freezing


def cures_of(learned: Sequence[Learned], dampen: float, freeze: bool) -> list[Cure]:
    """Return what watches the weights of few bits, and cures them as far as it is asked for.

    Args:
        learned: All that is learned.
        dampen: How strongly they are dampened in the end; 0 for not at all.
        freeze: Whether those that flip too often are frozen.

    """
    weights = [one for one in learned if isinstance(one, Gridded) and one.begun.limits[1] <= WIDEST]
    watched = [Oscillations(one) for one in weights]
    dampened: list[Any] = [Dampening(one, dampen) for one in weights] if dampen else []
    return [*watched, *dampened, *(map(Freezing, watched) if freeze else ())]
