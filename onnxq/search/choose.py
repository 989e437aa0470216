"""Choosing: options, and passes, of which only the model can tell what is best, by the error of its outputs.

A recipe names such options and the values to try, and passes to try on, or off. They are decided one after
the other, in the order of the recipe, each on top of those before: a value is taken if the compiled model's
outputs then lie clearly closer to the source's on calibration data, and the largest error does not grow for
it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import tee

from onnxq.engine.executor import Executor, Job, Serial
from onnxq.engine.score import Errors
from onnxq.progress import Steps
from onnxq.recipe import Recipe

CLEAR_GAIN = 0.9
"""A value has to bring the error down to 90 % to be taken: less may be chance, and not worth its cost."""

CLEAR_LOSS = 2.0
"""The largest error may not double: cutting off what is large and rare lowers the mean and ruins the rest."""


@dataclass(frozen=True)
class Trial:
    """What one value brought.

    Args:
        setting: ``pass.option=value`` or ``pass=on``; for the recipe as it stands, its name.
        noise: See ``Errors``. A value that makes it infinite is never taken, and after such a start any
            other is.
        largest: See ``Errors``.
        taken: Whether the recipe has the value from here on.

    """

    setting: str
    noise: float
    largest: float
    taken: bool


@dataclass(frozen=True)
class Choice:
    """The recipe to compile with, and how it was found; it leaves nothing more to choose."""

    recipe: Recipe
    trials: tuple[Trial, ...]


ErrorsOf = Callable[[Iterable[Recipe]], Iterator[Errors]]


def choose(
    recipe: Recipe,
    errors_of: Job[Recipe, Errors],
    on_progress: Steps,
    executor: Executor = Serial(),
) -> Choice:
    """Decide the recipe's choices.

    All values that are left are tried on top of those taken so far, as far ahead as the executor goes; where
    one is taken, trials ahead of it are thrown away.

    Args:
        recipe: What to compile with, its choices undecided.
        errors_of: Builds a recipe and compares it with its source.
        on_progress: Called with (recipes tried, recipes in all), the recipe as it stands being one.
        executor: Who tries the values; the recipe as it stands is tried here, and what is measured for it.

    """
    values, current = list(settings(recipe)), recipe.decided()
    on_progress(0, len(values) + 1)
    best = errors_of(current)
    trials = [Trial(recipe.name, best.noise, best.largest, taken=True)]
    with executor.opened(errors_of) as each:
        ahead = _tried(current, values, each)
        for done, setting in enumerate(values, start=1):
            on_progress(done, len(values) + 1)
            tried, found = next(ahead)
            taken = found.noise < CLEAR_GAIN * best.noise and found.largest <= CLEAR_LOSS * best.largest
            trials.append(Trial(setting, found.noise, found.largest, taken))
            if taken:
                current, best, ahead = tried, found, _tried(tried, values[done:], each)
    on_progress(len(values) + 1, len(values) + 1)
    return Choice(current, tuple(trials))


def _tried(current: Recipe, values: Sequence[str], each: ErrorsOf) -> Iterator[tuple[Recipe, Errors]]:
    """Yield the recipe with each of the values, and its errors."""
    recipes, same = tee(current.with_options([value]) for value in values)
    yield from zip(recipes, each(same), strict=True)


def settings(recipe: Recipe) -> Iterator[str]:
    """Yield each value that is to be tried, as ``pass.option=value``, or ``pass=on``."""
    for key, values in recipe.tried().items():
        yield from (f"{key}={value}" for value in values)
