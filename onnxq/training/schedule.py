"""How fast is learned at each step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

Shape = Literal["constant", "cosine"]


def constant(done: float) -> float:
    """Return 1."""
    return 1.0


def cosine(done: float) -> float:
    """Fall from 1 to 0 along half a cosine (Loshchilov and Hutter, 2017, arXiv:1608.03983)."""
    return (1 + math.cos(math.pi * done)) / 2


SHAPES: Mapping[Shape, Callable[[float], float]] = {"constant": constant, "cosine": cosine}


def part_of_rate(step: int, steps: int, shape: Shape, warm_up: int) -> float:
    """Return which part of the full rate a step takes.

    Args:
        step: Its number, from 0.
        steps: How many there are.
        shape: How the rate falls behind the warm-up.
        warm_up: In so many steps it rises evenly to all of it.

    """
    if step < warm_up:
        return (step + 1) / warm_up
    return SHAPES[shape]((step - warm_up) / max(steps - warm_up, 1))
