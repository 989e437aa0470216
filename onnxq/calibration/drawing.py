"""A model that draws squared gradients: of each value some rows, so that little comes out of a large one.

Where layers read a value, the gradient is that of what they read, and not of what a residual sum makes of it:
layers are what reads it quantized.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxq.analysis.layers import Layer, linear_layers
from onnxq.autodiff import Term, drawn_seed, losses, pulled_back
from onnxq.autodiff.model import named_values, with_outputs
from onnxq.autodiff.shapes import zeros
from onnxq.errors import PreconditionError
from onnxq.ir.module import GraphModule, is_standard, name_of, rank_of
from onnxq.rewrite.edit import Editor

MOST = 1 << 20
"""Elements of one value: of a larger one, so many are looked at, in rows evenly spaced, each of which
counts for as many as it stands for."""

WHY = "how much the loss cares for it"


@dataclass(frozen=True)
class Watched:
    """Rows of a value along an axis, whose squared gradients somebody wants.

    Args:
        value: The value's name.
        axis: The channel axis, counted from the end.
        products: Whether the squares are those of what matrix products make of the rows, in the mean.

    """

    value: str
    axis: int
    products: bool


@dataclass(frozen=True)
class Drawing:
    """A model that draws squared gradients.

    Args:
        module: Its inputs are those of the model, and signs.
        signs: For each value that the loss depends on, the name of the input of its signs.
        rows: For each of what is watched the names of two outputs: rows, shape (R, C), and their squared
            gradients, of the same shape; of products shape (R, 1).

    """

    module: GraphModule
    signs: Mapping[str, str]
    rows: Mapping[Watched, tuple[str, str]]


def drawing_of(module: GraphModule, watched: Iterable[Watched]) -> Drawing:
    """Return the model that draws.

    Args:
        module: As ``onnxq.autodiff.prepared`` returns it; it is changed.
        watched: What to draw of.

    Raises:
        ModelError: An operator on the way to an output has no gradient, or there is no such value.
        PreconditionError: No matrix product reads a value whose products are asked for, or it is not known
            how many axes a value has.

    """
    edit, watched = Editor(module), list(dict.fromkeys(watched))
    drawn = {one.value: drawn_seed(one.value, one.head, edit) for one in losses(module)}
    values = named_values(module, [one.value for one in watched])
    sources = _sources(watched, values, edit)
    wrt = list(dict.fromkeys(source for some in sources for source in some))
    found = pulled_back(module, {value: seed for value, (_, seed) in drawn.items()}, wrt)
    gradients = dict(zip(wrt, found, strict=True))
    rows = [
        _rows(one, value, [(source, gradients[source]) for source in some], edit)
        for one, value, some in zip(watched, values, sources, strict=True)
    ]
    made = with_outputs([part for both in rows for part in both], edit)
    names = [(name_of(x), name_of(squares)) for x, squares in rows]
    signs = {name_of(value): name_of(given) for value, (given, _) in drawn.items()}
    return Drawing(made, signs, dict(zip(watched, names, strict=True)))


def _sources(watched: Sequence[Watched], values: Sequence[ir.Value], edit: Editor) -> list[list[ir.Value]]:
    """Return, for each of what is watched, the values whose gradients are looked at."""
    layers = _layers_by_input(edit.module)
    own = {value: _as_layers_read(value, layers.get(value, ()), edit) for value in dict.fromkeys(values)}
    return [
        _products(value, layers.get(value, ())) if one.products else [own[value]]
        for one, value in zip(watched, values, strict=True)
    ]


def _layers_by_input(module: GraphModule) -> dict[ir.Value, list[Layer]]:
    found: dict[ir.Value, list[Layer]] = {}
    for layer in linear_layers(module):
        found.setdefault(layer.activation, []).append(layer)
    return found


def _as_layers_read(value: ir.Value, layers: Sequence[Layer], edit: Editor) -> ir.Value:
    """Return what the layers alone read: a copy of the value; the value itself where there are none."""
    if not layers:
        return value
    before = min((layer.node for layer in layers), key=list(edit.module.graph).index)
    copy = edit.at(before, why=WHY).Identity(value)
    for layer in layers:
        edit.rewire(layer.node, 0, copy, why=WHY)
    return copy


def _products(value: ir.Value, layers: Iterable[Layer]) -> list[ir.Value]:
    """Return what matrix products make of the rows of a value, row by row.

    Raises:
        PreconditionError: There is no such product.

    """
    matrices = (one for one in layers if is_standard(one.node, "Gemm", "MatMul") and rank_of(one.weight) == 2)
    made = [one.output for one in matrices]
    if not made:
        raise PreconditionError("no product with a matrix reads it", where=f"value {name_of(value)!r}")
    return made


def _rows(
    one: Watched, value: ir.Value, pairs: Sequence[tuple[ir.Value, ir.Value | None]], edit: Editor
) -> tuple[ir.Value, ir.Value]:
    """Build rows of the value, and their squares: the sum over all rows is about that over those."""
    op = edit.behind(edit.module.graph[-1].outputs[0], why=WHY)
    rows = _flat(Term(op, value), one.axis)
    squares = [_flat(_squared(Term(op, source), found), one.axis) for source, found in pairs]
    weights = squares[0]
    if one.products:
        first, *others = squares
        weights = (first.Concat(*others, axis=1) if others else first).mean([1])
    count, channels = rows.Shape(start=0, end=1), rows.Shape(start=1, end=2)
    kept = count.Min(count.number(MOST) / channels.Max(count.number(1))).Max(count.number(1))
    first = kept.number(0)
    places = first.Range(kept.Squeeze(), kept.number(1)) * count / kept
    apart = count.to(ir.DataType.FLOAT) / kept.to(ir.DataType.FLOAT)
    return rows.Gather(places, axis=0).value, (weights * apart).Gather(places, axis=0).value


def _squared(source: Term, gradient: ir.Value | None) -> Term:
    found = zeros(source) if gradient is None else Term(source.op, gradient)
    return found * found


def _flat(term: Term, axis: int) -> Term:
    """Return the rows along an axis, shape (R, C), as float32; a vector has one channel."""
    rank = rank_of(term.value)
    if rank is None or rank < -axis > 1:
        raise PreconditionError(
            "how many axes it has is not known, or they are too few", where=f"value {name_of(term.value)!r}"
        )
    term = term.to(ir.DataType.FLOAT)
    if rank < 2:
        return term.Reshape(np.array([-1, 1]))
    if axis == -1:
        return term.Flatten(axis=rank - 1)
    order = [*range(rank + axis), *range(rank + axis + 1, rank), rank + axis]
    return term.Transpose(perm=order).Flatten(axis=rank - 1)
