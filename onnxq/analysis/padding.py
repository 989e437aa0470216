"""Masks that padding decides: which inputs and constants what is added to attention's scores is made of."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from onnxq.ir.module import constant_of

ABSORBING = -1e30
"""A mask entry from here down swallows every finite score of less than 1e22: the sum is the entry itself."""

_OF_SHAPES = ("Shape", "Size")


def is_of_padding(mask: ir.Value) -> bool:
    """Tell whether an input of the model decides which keys count, and those that do not are ruled out.

    They are by ``False``, or by a constant that swallows the score. What shapes alone decide, as a causal
    mask, rules out none for all queries.
    """
    made_of = list(_sources(mask))
    ruled_out = mask.dtype == ir.DataType.BOOL or any(_absorbs(value) for value in made_of)
    return ruled_out and any(value.is_graph_input() for value in made_of)


def _sources(value: ir.Value) -> Iterator[ir.Value]:
    """Yield the inputs of the model and the constants whose numbers ``value`` is computed from."""
    ahead, seen = [value], {value}
    while ahead:
        found = ahead.pop()
        node = found.producer()
        if node is None:
            yield found
        elif node.op_type not in _OF_SHAPES:
            new = [one for one in node.inputs if one is not None and one not in seen]
            seen.update(new)
            ahead.extend(new)


def _absorbs(value: ir.Value) -> bool:
    array = constant_of(value)
    return (
        array is not None and array.dtype.kind == "f" and array.size > 0 and bool(np.min(array) <= ABSORBING)
    )
