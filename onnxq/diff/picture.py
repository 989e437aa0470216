"""What a page draws of models: two are one graph, so that what is the same stands at the same place."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxq.diff.changes import Change
from onnxq.diff.drawn import (
    AFTER,
    BEFORE,
    BOTH,
    DrawnChange,
    DrawnNode,
    DrawnWeight,
    NodeFacts,
    Picture,
    StoredWeight,
)
from onnxq.diff.flat import Flat, subgraphs
from onnxq.diff.models import Aligned, constant_bytes, name_of_node
from onnxq.diff.result import ChangeRow, TensorError
from onnxq.diff.tensors import shape_of, stored_grid
from onnxq.diff.weights import Stored, WeightMatch, stored_weights
from onnxq.ir.module import name_of
from onnxq.quant.likeness import bars
from onnxq.runtime.kernels import KernelReport

_SCOPES = "pkg.torch.onnx.name_scopes"
_LONGEST_TEXT = 160
_BARS_OF = 200_000
"""Elements of a weight that its histogram counts at most; evenly spaced."""


def picture_of_diff(aligned: Aligned) -> Picture:
    """Return nodes, edges, changes and weights of both models.

    Nodes of a change that left the operators as they were stand for both models.
    """
    before, after = aligned.alignment.before, aligned.alignment.after
    union = _Union()
    for place, change in enumerate(aligned.changes):
        _add_change(union, place, change)
    _give_scopes(union, before, 0)
    _give_scopes(union, after, 1)
    errors = {} if aligned.diff.measured is None else {e.change: e for e in aligned.diff.measured.errors}
    rows = aligned.diff.changes
    for node in union.nodes:
        assert node.change is not None
        row, error = rows[node.change], errors.get(node.change)
        node.kind = row.kind
        node.us = row.microseconds_before, row.microseconds_after
        node.error = None if error is None else error.sqnr_db
        node.last = _is_last(aligned.changes[node.change], node, union)
    return Picture(
        models=(aligned.diff.before.name, aligned.diff.after.name),
        nodes=union.nodes,
        edges=union.edges(before, after),
        weights=[_weight_pair(match, union) for match in aligned.alignment.weights],
        changes=[_change(row, errors.get(row.id)) for row in rows],
    )


def picture_of_model(flat: Flat, name: str, kernels: KernelReport | None = None) -> Picture:
    """Return nodes, edges and weights of one model.

    Args:
        flat: The model.
        name: What to call it.
        kernels: What ran, if that is known.

    """
    union, times = _Union(), dict[str, float]()
    for kernel in kernels.nodes if kernels is not None else ():
        times.update(dict.fromkeys((kernel.name, *kernel.outputs), kernel.microseconds))
    for node in flat.nodes:
        union.add(node, 0, None)
    _give_scopes(union, flat, 0)
    for node, entry in zip(flat.nodes, union.nodes, strict=True):
        found = [times[key] for key in (*map(name_of, node.outputs), node.name or "") if key in times]
        entry.us = (found[0] if found else None), None
    weights = [_weight_alone(stored, union) for stored in stored_weights(flat)]
    return Picture((name,), union.nodes, union.edges(flat, None), weights)


class _Union:
    """The nodes of both models, each with a number."""

    def __init__(self) -> None:
        self.nodes: list[DrawnNode] = []
        self.numbers: dict[ir.Node, int] = {}
        self.origins: list[list[ir.Node | None]] = []

    def add(self, node: ir.Node, side: int, change: int | None) -> None:
        """Add a node of one model, unless it is there."""
        if node not in self.numbers:
            self.numbers[node] = len(self.nodes)
            self.origins.append([None, None])
            self.origins[-1][side] = node
            self.nodes.append(_drawn(node, len(self.nodes), side, change))

    def join(self, first: ir.Node, second: ir.Node) -> None:
        """Let ``second`` share the number of ``first``."""
        if second in self.numbers or first not in self.numbers:
            return
        number = self.numbers[second] = self.numbers[first]
        self.origins[number][1] = second
        entry = self.nodes[number]
        entry.side = BOTH
        entry.facts[1] = _facts(second)
        entry.bytes[1] = constant_bytes([second])

    def place_together(self, first: ir.Node, second: ir.Node) -> None:
        """Let both be drawn at one place: they are of different models."""
        self.nodes[self.numbers[second]].slot = self.nodes[self.numbers[first]].slot

    def edges(self, before: Flat, after: Flat | None) -> list[tuple[int, int, int]]:
        """Return who reads whom: two numbers, and of which model that is so."""
        found: dict[tuple[int, int], int] = {}
        for side, flat in enumerate(filter(None, (before, after))):
            for source, target in _edges(flat):
                if source in self.numbers and target in self.numbers:
                    key = self.numbers[source], self.numbers[target]
                    found[key] = found.get(key, 0) | (side + 1)
        sides = {1: BEFORE, 2: AFTER, 3: BOTH}
        return [(*key, sides[bits]) for key, bits in sorted(found.items()) if key[0] != key[1]]


def _add_change(union: _Union, place: int, change: Change) -> None:
    new = [[node for node in nodes if node not in union.numbers] for nodes in (change.before, change.after)]
    for node in change.before:
        union.add(node, 0, place)
    if change.kind in ("same", "rewritten"):
        waiting: dict[str, list[ir.Node]] = defaultdict(list)
        for node in change.before:
            waiting[node.op_type].append(node)
        for node in change.after:
            if waiting[node.op_type]:
                union.join(waiting[node.op_type].pop(0), node)
    for node in change.after:
        union.add(node, 1, place)
    for first, second in zip(reversed(new[0]), reversed(new[1]), strict=False):
        union.place_together(first, second)


def _drawn(node: ir.Node, slot: int, side: int, change: int | None) -> DrawnNode:
    facts: list[NodeFacts | None] = [None, None]
    facts[side] = _facts(node)
    sizes = [0, 0]
    sizes[side] = constant_bytes([node])
    return DrawnNode(
        name=name_of_node(node),
        op=node.op_type,
        slot=slot,
        side=side + 1,
        change=change,
        dtype=_dtype(node),
        facts=facts,
        bytes=sizes,
    )


def _facts(node: ir.Node) -> NodeFacts:
    return NodeFacts(
        name=name_of_node(node),
        domain=node.domain,
        inputs=[_value(value) for value in node.inputs if value is not None],
        outputs=[_value(value) for value in node.outputs if value.name],
        attributes={
            key: _short(str(attr.value)) for key, attr in node.attributes.items() if not _is_graph(attr)
        },
    )


def _value(value: ir.Value) -> tuple[str, str, str]:
    dtype = "?" if value.dtype is None else value.dtype.name.lower()
    shape = "" if value.shape is None else f"[{', '.join(map(str, shape_of(value) or ()))}]"
    tensor = value.const_value
    small = tensor is not None and tensor.size <= 4 and not tensor.dtype.is_string()
    content = f" = {tensor.numpy().tolist()}" if small and tensor is not None else ""
    return name_of(value), f"{dtype}{shape}{_short(content)}", "" if tensor is None else "constant"


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"


def _is_graph(attr: ir.Attr) -> bool:
    return attr.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _dtype(node: ir.Node) -> str:
    """Return the type of the node's integer weights if it has any, else that of what it gives."""
    stored = [value.dtype for value in node.inputs if value is not None and value.const_value is not None]
    integers = [
        dtype for dtype in stored if dtype is not None and dtype.is_integer() and dtype.bitwidth <= 16
    ]
    dtype = integers[0] if integers else node.outputs[0].dtype
    return "?" if dtype is None else dtype.name.lower()


def _edges(flat: Flat) -> Iterator[tuple[ir.Node, ir.Node]]:
    for node in flat.nodes:
        inner = [value for graph in subgraphs(node) for value in graph.outputs]
        for value in (*node.inputs, *inner):
            maker = None if value is None else value.producer()
            if maker is not None:
                yield maker, node


def _give_scopes(union: _Union, flat: Flat, side: int) -> None:
    """Give each node the scope that its exporter noted, or its name has, or its change, or its inputs."""
    known: dict[int, str] = {}
    for entry in union.nodes:
        if entry.scope and entry.change is not None:
            known.setdefault(entry.change, entry.scope)
    for node in flat.nodes:
        number = union.numbers.get(node)
        if number is None or union.nodes[number].scope:
            continue
        entry = union.nodes[number]
        noted = _noted_scope(node) if side == 0 else ""
        of_change = "" if entry.change is None else known.get(entry.change, "")
        entry.scope = noted or of_change or _scope_of_inputs(union, node)


def _noted_scope(node: ir.Node) -> str:
    try:
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, ""))
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # there is no note, or another exporter's
        return name_of_node(node).strip("/").rpartition("/")[0]
    return str(scopes[-2]) if isinstance(scopes, list) and len(scopes) > 1 else ""


def _scope_of_inputs(union: _Union, node: ir.Node) -> str:
    makers = [value.producer() for value in node.inputs if value is not None]
    scopes = (union.nodes[union.numbers[maker]].scope for maker in makers if maker in union.numbers)
    return next(filter(None, scopes), "")


def _is_last(change: Change, node: DrawnNode, union: _Union) -> bool:
    """Tell whether the node gives its change's value, and so stands for the change's time and error."""
    makers = (value.producer() for value in (change.value, change.counterpart) if value is not None)
    return any(maker is not None and union.nodes[union.numbers[maker]] is node for maker in makers)


def _change(row: ChangeRow, error: TensorError | None) -> DrawnChange:
    return DrawnChange(row.kind, row.pattern, row.how, (row.value, row.counterpart), error)


def _weight_pair(match: WeightMatch, union: _Union) -> DrawnWeight:
    edges, heights = bars(_thinned(match.before.real))
    stored = match.after
    real = stored.scale is not None or (
        stored.value.dtype is not None and stored.value.dtype.is_floating_point()
    )
    other = (
        np.histogram(_thinned(match.counterpart), np.asarray(edges))[0].tolist() if real and edges else None
    )
    return DrawnWeight(
        nodes=[union.numbers[match.before.node], union.numbers[stored.node]],
        names=[name_of(match.before.value), name_of(stored.value)],
        grids=[_stored(match.before), _stored(stored)],
        edges=edges,
        heights=[heights, other],
        cosine=match.cosine,
    )


def _weight_alone(stored: Stored, union: _Union) -> DrawnWeight:
    edges, heights = bars(_thinned(stored.real))
    return DrawnWeight(
        nodes=[union.numbers[stored.node]],
        names=[name_of(stored.value)],
        grids=[_stored(stored)],
        edges=edges,
        heights=[heights],
    )


def _thinned(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array.reshape(-1)[:: max(1, array.size // _BARS_OF)]


def _stored(stored: Stored) -> StoredWeight:
    grid = stored_grid(stored)
    tensor = stored.value.const_value
    assert tensor is not None
    found = StoredWeight(tensor.dtype.name.lower(), list(tensor.shape.numpy()), tensor.nbytes)
    if grid is None:
        return found
    return replace(found, granularity=grid.granularity, scale=grid.scale, zero_point=grid.zero_point)
