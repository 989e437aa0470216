"""Masks that padding decides: which inputs and constants what is added to attention's scores is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import sympy

from onnxq.analysis.cases import AtMostZero, IsSet
from onnxq.analysis.masks import BATCH, KEY, ruling_of
from onnxq.ir.module import LINEAR, constant_of

ABSORBING = -1e30
"""A mask entry from here down swallows every finite score of less than 1e22: the sum is the entry itself."""

_OF_OTHER_NUMBERS = (*LINEAR, "Shape", "Size")
"""Operators whose results rule out no key by themselves: lengths, and sums of products."""


@dataclass(frozen=True)
class KeyLengths:
    """How many keys of each sample count, the first ones; the scores of others are swallowed.

    Args:
        source: An input of the model: the lengths themselves, of shape (batch,), or flags of shape (batch,
            keys), which are 1 where a key counts and else 0.
        flags: Which of both it is. That the ones stand in front is not in the graph: somebody has to know.

    """

    source: ir.Value
    flags: bool


def key_lengths_of(mask: ir.Value) -> KeyLengths | None:
    """Return by which lengths ``mask`` rules keys out, for all queries alike; None if by anything else.

    Args:
        mask: Truth values, or what is added to scores of shape (batch, heads, queries, keys).

    """
    ruling = ruling_of(mask)
    if ruling is None or ruling.entry > ABSORBING or len(ruling.conditions) != 1:
        return None
    (condition,) = ruling.conditions
    if isinstance(condition, IsSet):
        flags = condition.index == (BATCH, KEY)
        return KeyLengths(condition.value, flags=True) if flags else None
    lengths = _lengths_in(condition, mask)
    return None if lengths is None else KeyLengths(lengths, flags=False)


def _lengths_in(condition: AtMostZero, mask: ir.Value) -> ir.Value | None:
    """Return the input of one length for each sample that every key's number has to be below."""
    node = mask.producer()
    graph = None if node is None else node.graph
    for value in () if graph is None else graph.inputs:
        length = sympy.Function(value.name, integer=True)(BATCH)
        if condition.expression == KEY - length + 1:
            return value
    return None


def is_of_padding(mask: ir.Value) -> bool:
    """Tell whether an input of the model decides which keys count, and those that do not are ruled out.

    They are by ``False``, or by a constant that swallows the score. What shapes alone decide, as a causal
    mask, rules out none for all queries.
    """
    made_of = list(sources_of(mask))
    ruled_out = mask.dtype == ir.DataType.BOOL or any(_absorbs(value) for value in made_of)
    return ruled_out and any(value.is_graph_input() for value in made_of)


def sources_of(value: ir.Value) -> Iterator[ir.Value]:
    """Yield the inputs of the model and the constants whose numbers ``value`` is computed from.

    What comes out of a linear layer is not followed: that would be most of the model.
    """
    ahead, seen = [value], {value}
    while ahead:
        found = ahead.pop()
        node = found.producer()
        if node is None:
            yield found
        elif node.op_type not in _OF_OTHER_NUMBERS:
            new = [one for one in node.inputs if one is not None and one not in seen]
            seen.update(new)
            ahead.extend(new)


def _absorbs(value: ir.Value) -> bool:
    array = constant_of(value)
    return (
        array is not None and array.dtype.kind == "f" and array.size > 0 and bool(np.min(array) <= ABSORBING)
    )
