"""One trial of a search: a recipe is built, and compared with its source."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxq.engine.build import Build
from onnxq.engine.score import Errors, Score
from onnxq.passmanager.base import Pass
from onnxq.recipe import Recipe

Answer = tuple[Errors, Mapping[Hashable, Any]]
"""The errors of a recipe, and what a ``Memo`` holds of what they took."""


@dataclass(frozen=True)
class Trial:
    """A job for an executor: the errors of recipes.

    Args:
        build: Builds them.
        score: Compares them.
        foreseen: Passes of trials to come; see ``Build.trial``.

    """

    build: Build
    score: Score
    foreseen: Sequence[Pass] = ()

    def __call__(self, recipe: Recipe) -> Errors:
        """Return the errors of the recipe's result.

        Raises:
            OnnxqError: It cannot be built, or does not run.

        """
        return self.score.errors(self.build.trial(recipe, self.foreseen))

    def elsewhere(self) -> Callable[[Recipe], Answer]:
        """Return what gives the errors in another process, with what it computed for them."""
        return Trial(self.build.elsewhere(), self.score.elsewhere(), self.foreseen).answer

    def answer(self, recipe: Recipe) -> Answer:
        """Return the errors, and what was computed for layers that was not kept yet."""
        before = set(self.build.memo.kept)
        errors = self(recipe)
        return errors, {key: found for key, found in self.build.memo.kept.items() if key not in before}

    def accept(self, answer: Answer) -> Errors:
        """Keep what was computed for layers, so that it is not computed again here."""
        errors, computed = answer
        self.build.memo.kept.update(computed)
        return errors
