"""Where a generator's choices come from: a seed, or a property test that shrinks what failed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

T = TypeVar("T")


class Draws(Protocol):
    """A source of choices."""

    def below(self, count: int) -> int:
        """Return a whole number from 0 to ``count - 1``; a shrinker tries smaller ones."""


@dataclass
class SeededDraws:
    """Choices that a seed repeats, on every platform.

    Args:
        seed: Names the whole sequence of choices.

    """

    seed: int
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        """Start the sequence."""
        self._random = random.Random(self.seed)

    def below(self, count: int) -> int:
        """Return the next choice."""
        return self._random.randrange(count)


def pick(draws: Draws, options: Sequence[T]) -> T:
    """Return one of the options; the simplest should come first."""
    return options[draws.below(len(options))]


def once_in(draws: Draws, count: int) -> bool:
    """Return True about once in ``count`` times; False is the simpler answer."""
    return draws.below(count) == count - 1
