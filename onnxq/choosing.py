"""Choosing: options whose best value only the model can tell, decided by the error of its outputs.

A recipe names such options and the values to try. They are decided one after the other, in the order of the
recipe, each on top of those before: a value is taken if the compiled model's outputs then lie clearly closer
to the source's on calibration data, and the largest error does not grow for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from onnxq.recipe import Recipe
from onnxq.runtime.batch import Batch
from onnxq.runtime.compare import OutputAccuracy
from onnxq.runtime.seeded import random_operators
from onnxq.runtime.session import open_session
from onnxq.runtime.validate import validate

CLEAR_GAIN = 0.95
"""A value has to bring the error down to 95 % to be taken: what costs time for less is not worth it."""

CLEAR_LOSS = 2.0
"""The largest error may not double: cutting off what is large and rare lowers the mean and ruins the rest."""

Build = Callable[[Recipe], Path]
"""Compiles with a recipe and returns the file."""

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Trial:
    """What one value brought.

    Args:
        setting: ``pass.option=value``; for the recipe as it stands, its name.
        noise: Power of the outputs' error, as a part of the power of the source's outputs; infinite where
            they are no numbers but the source's are. Such a value is never taken, and after such a start
            any other is.
        largest: The largest error of an output, as a part of that output's largest value.
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


def choose(
    recipe: Recipe,
    build: Build,
    source: Path,
    batches: Callable[[], Iterable[Batch]],
    threads: int | None,
    on_progress: Progress,
) -> Choice:
    """Return ``recipe`` with each of its choices decided.

    Args:
        recipe: What to decide.
        build: How to compile with a recipe.
        source: The original model.
        batches: The data to compare on; gone through once for each value.
        threads: Threads within an operator.
        on_progress: Called with (values tried, values in all).

    """
    drawing = random_operators(source)  # what they draw goes on from run to run: each trial begins anew
    reference = source if drawing else open_session(source, threads=threads)

    def errors_of(tried: Recipe) -> tuple[float, float]:
        outputs = validate(reference, build(tried), batches(), threads=threads).outputs
        return sum(map(_noise, outputs)) / len(outputs), max(map(_largest, outputs))

    settings, current = list(_settings(recipe)), recipe.decided()
    least, worst = errors_of(current)
    trials = [Trial(recipe.name, least, worst, taken=True)]
    for done, setting in enumerate(settings):
        on_progress(done, len(settings))
        tried = current.with_options([setting])
        noise, largest = errors_of(tried)
        taken = noise < CLEAR_GAIN * least and largest <= CLEAR_LOSS * worst
        trials.append(Trial(setting, noise, largest, taken))
        if taken:
            current, least, worst = tried, noise, largest
    on_progress(len(settings), len(settings))
    return Choice(current, tuple(trials))


def _settings(recipe: Recipe) -> Iterator[str]:
    for pass_, options in recipe.choices.items():
        for option, values in options.items():
            yield from (f"{pass_}.{option}={value}" for value in values)


def _noise(output: OutputAccuracy) -> float:
    """Return the error of one output; where there are no floats, the share of other values.

    What is NaN or infinite in the source counts for nothing; where it is a number there and none here, the
    error is infinite.
    """
    if output.new_non_finite:
        return math.inf
    if output.sqnr_db is not None:
        return float(10 ** (-output.sqnr_db / 10))
    return 0.0 if output.equal is None else 1 - output.equal


def _largest(output: OutputAccuracy) -> float:
    """Return the largest error of one output as a part of its largest value; none if there are no floats."""
    if output.new_non_finite:
        return math.inf
    return output.max_abs / output.scale if output.max_abs and output.scale else 0.0
