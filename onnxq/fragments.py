"""Fragments: what pipelines have in common, under a name: ``@tidy`` in a pipeline stands for its passes."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import NoReturn

from onnxq.errors import RecipeError, did_you_mean

FILE = "fragments.toml"
"""What lies beside the shipped recipes and is none of them."""

MOST = 200
"""So many fragments one pipeline may stand for, those within fragments counted; each could double it."""

_OPTIONS = r'\{(?:"(?:[^"\\]|\\.)*"|[^"}])*\}'
_NAME = r"(?<![\w-])@(?P<name>[A-Za-z0-9][\w-]*)"
_PART = re.compile(f"{_OPTIONS}|{_NAME}")
"""The options of a pass, in which an @ is a part of a value, or the name of a fragment."""


def expand(pipeline: str, own: Mapping[str, str] | None = None) -> str:
    """Return the pipeline's text with passes in the place of the names of fragments.

    Args:
        pipeline: The text; what is no name of a fragment stays as it is.
        own: Fragments besides the shipped ones; one of the same name takes its place.

    Raises:
        RecipeError: A fragment is unknown, empty, or contains itself.

    """
    return _Expansion({**shipped_fragments(), **(own or {})}).of(pipeline, ())


@cache
def shipped_fragments() -> Mapping[str, str]:
    """Return the fragments that come with onnxq, by name, as they are written."""
    text = files("onnxq.recipes").joinpath(FILE).read_text(encoding="utf-8")
    return {name: passes.strip() for name, passes in tomllib.loads(text)["fragments"].items()}


@dataclass
class _Expansion:
    """Expands one pipeline."""

    fragments: Mapping[str, str]
    count: int = 0

    def of(self, text: str, within: tuple[str, ...]) -> str:
        """Return ``text`` expanded; ``within`` which fragments it stands."""
        return _PART.sub(lambda part: self._passes(part["name"], within) if part["name"] else part[0], text)

    def _passes(self, name: str, within: tuple[str, ...]) -> str:
        if name not in self.fragments:
            _refuse(f"unknown fragment '@{name}'", did_you_mean(name, self.fragments))
        if name in within:
            circle = " -> ".join(f"@{one}" for one in (*within[within.index(name) :], name))
            _refuse(f"the fragment '@{name}' contains itself: {circle}")
        self.count += 1
        if self.count > MOST:
            _refuse(f"the pipeline stands for more than {MOST} fragments")
        passes = self.fragments[name].strip()
        return self.of(passes, (*within, name)) or _refuse(f"the fragment '@{name}' names no pass")


def _refuse(message: str, hint: str | None = None) -> NoReturn:
    raise RecipeError(message, hint=hint)
