"""Numbers and truth values that depend on conditions, of which masks are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import onnx_ir as ir

Expression: TypeAlias = Any
"""An integer expression of sympy, which has no types to check."""
Index: TypeAlias = tuple[Expression, ...]
Element: TypeAlias = Any
"""An ``Expression``, or ``Cases``."""


@dataclass(frozen=True)
class AtMostZero:
    """The condition that an integer expression is not positive."""

    expression: Expression


@dataclass(frozen=True)
class IsSet:
    """The condition that an element of an input of the model is not 0, and, where it is computed with, 1."""

    value: ir.Value
    index: Index


Condition = AtMostZero | IsSet


@dataclass(frozen=True)
class Cases:
    """A number or a truth value: ``yes`` where all conditions hold, else ``no``."""

    conditions: frozenset[Condition]
    yes: float
    no: float


class UnreadableError(Exception):
    """The graph does something that is not followed."""


def truth_of(element: Element) -> Cases:
    """Return a known number as cases."""
    if isinstance(element, Cases):
        return element
    if not element.is_Integer:
        raise UnreadableError
    return Cases(frozenset(), float(element), float(element))


def by_case(function: Callable[..., float], cases: Sequence[Cases]) -> Cases:
    """Apply a function in both cases, which must be the same for all operands that have any."""
    open_ = {one.conditions for one in cases if one.conditions}
    if len(open_) > 1:
        raise UnreadableError
    yes, no = (float(function(*numbers)) for numbers in ((c.yes for c in cases), (c.no for c in cases)))
    return Cases(next(iter(open_), frozenset()), yes, no)


def all_conditions(cases: Sequence[Cases]) -> frozenset[Condition]:
    """Return the conditions of all."""
    return frozenset().union(*(one.conditions for one in cases))
