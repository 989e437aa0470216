"""Masks as formulas: under which conditions a query may see a key, read off the graph element by element.

Exporters write masks with ranges, comparisons and look-ups. ``ruling_of`` asks what the graph computes for
one key, one query and one sample whose numbers are symbols, and follows each operator to the elements that
it reads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir
import sympy

from onnxq.analysis.cases import Condition, Expression, UnreadableError, truth_of
from onnxq.analysis.elements import Reader, aligned
from onnxq.ir.module import rank_of

BATCH, HEAD, QUERY, KEY = sympy.symbols("batch_index head_index query_index key_index", integer=True)
AXES = (BATCH, HEAD, QUERY, KEY)
"""Which sample, head, query and key: what the axes of scores count."""


@dataclass(frozen=True)
class Ruling:
    """What a mask says of one query and one key.

    Args:
        conditions: Where all hold, the score stays as it is.
        entry: What is added to it elsewhere: at least so far below 0; minus infinity for truth values.

    """

    conditions: frozenset[Condition]
    entry: float


def ruling_of(mask: ir.Value) -> Ruling | None:
    """Return what ``mask``, truth values or what is added to scores, says; None if it cannot be read."""
    rank = rank_of(mask) or 0
    if not 1 <= rank <= len(AXES) or mask.shape is None:
        return None
    index = aligned(mask, AXES[-rank:])
    try:
        found = truth_of(Reader().element(mask, index))
    except UnreadableError:
        return None
    if mask.dtype is ir.DataType.BOOL:
        return Ruling(found.conditions, -math.inf) if (found.yes, found.no) == (1, 0) else None
    return Ruling(found.conditions, found.no) if found.yes == 0 > found.no else None


def length_of(value: ir.Value, axis: int) -> Expression | None:
    """Return the length of an axis as ``ruling_of`` calls it; None if nobody knows it."""
    try:
        return Reader().length(value, axis)
    except UnreadableError:
        return None
