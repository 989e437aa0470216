"""How far work is, told to whoever wants to show it."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int | None], None]
"""Called with what is being done, how much of it is done, and how much there is; None if only the end tells.

A phase that knows how much there is ends with as much done; one that does not ends where another begins.
"""

Steps = Callable[[int, int | None], None]
"""The same within one phase."""


def quiet(phase: str, done: int, total: int | None) -> None:
    """Tell nobody."""


def steps_of(progress: Progress, phase: str) -> Steps:
    """Return what tells of one phase."""
    return lambda done, total: progress(phase, done, total)
