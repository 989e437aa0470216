"""Rules that say when a difference is too large: ``sqnr_db<20``, ``removed>0``."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from onnxq.diff.result import ModelDiff
from onnxq.errors import RecipeError, did_you_mean

_SIGNS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_QUANTITIES: Mapping[str, Callable[[ModelDiff], float | None]] = {
    "changes": lambda diff: sum(count for kind, count in diff.counts.items() if kind != "same"),
    "rewritten": lambda diff: diff.counts["rewritten"],
    "replaced": lambda diff: diff.counts["replaced"],
    "added": lambda diff: diff.counts["added"],
    "removed": lambda diff: diff.counts["removed"],
    "unaligned": lambda diff: len(diff.unaligned),
    "bytes": lambda diff: diff.after.size_bytes - diff.before.size_bytes,
    "sqnr_db": lambda diff: _worst(diff, "sqnr_db", min, math.inf),
    "cosine": lambda diff: _worst(diff, "cosine", min, 1.0),
    "max_abs": lambda diff: _worst(diff, "max_abs", max, 0.0),
}


@dataclass(frozen=True)
class Rule:
    """A quantity of a difference and the bound at which it is too much.

    Args:
        quantity: A key of the table above: counts of changes, bytes that the second model is larger, or the
            worst error among the aligned values.
        sign: ``<``, ``<=``, ``>`` or ``>=``.
        bound: The number.

    """

    quantity: str
    sign: str
    bound: float

    def hits(self, diff: ModelDiff) -> bool:
        """Tell whether ``diff`` is too large.

        Raises:
            RecipeError: The quantity is an error, and there was no data.

        """
        found = _QUANTITIES[self.quantity](diff)
        if found is None:
            raise RecipeError(
                f"{self.quantity} is known with data only", where="--fail-on", hint="give --data"
            )
        return _SIGNS[self.sign](found, self.bound)

    def __str__(self) -> str:
        """Return the rule as it is written."""
        return f"{self.quantity}{self.sign}{self.bound:g}"


def parse_rule(text: str) -> Rule:
    """Read a rule such as ``sqnr_db<20``.

    Raises:
        RecipeError: It is none.

    """
    match = re.fullmatch(r"\s*(\w+)\s*(<=|>=|<|>)\s*(-?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*", text)
    if match is None:
        raise RecipeError(f"{text!r} is no rule", where="--fail-on", hint="write it like 'sqnr_db<20'")
    if match[1] not in _QUANTITIES:
        raise RecipeError(
            f"unknown quantity {match[1]!r}", where="--fail-on", hint=did_you_mean(match[1], _QUANTITIES)
        )
    return Rule(match[1], match[2], float(match[3]))


def _worst(diff: ModelDiff, key: str, choose: Any, start: float) -> float | None:
    if diff.measured is None:
        return None
    found = [getattr(error, key) for error in diff.measured.errors]
    return float(choose([start, *(number for number in found if number is not None)]))
