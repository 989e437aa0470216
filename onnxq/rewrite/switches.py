"""Switches: let each reader of an encoded value read the value, or what its encoding makes of it.

So one model runs in any mixture: nothing quantized, everything, one tensor alone, all but one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.errors import PassError
from onnxq.ir.knowledge import Decision
from onnxq.ir.module import GraphModule, array_of, attribute, constant_of, input_of, is_standard, name_of
from onnxq.quant.encodings import Encoding
from onnxq.rewrite.edit import Editor
from onnxq.rewrite.qdq.forms import form_of
from onnxq.rewrite.qdq.pairs import Pairs

SWITCHES = "onnxq_switches"
"""The added input: one boolean for each encoded value and reader."""

WHY = "one of the two is read"


@dataclass(frozen=True)
class Edge:
    """An encoded value and one of its readers.

    Args:
        value: The value's name.
        reader: The name of a node; None for the model's output.
        constant: Whether the value is a constant.
        dtype: What it is quantized to.

    """

    value: str
    reader: str | None
    constant: bool
    dtype: str


Grid = tuple[ir.Value, ir.Value]
"""Scale and zero point."""

Originals = Mapping[tuple[str, int], NDArray[Any] | None]
"""By the name of a node and the number of its input: the constant that was read there before it was changed
to make up for quantization; None if there was none."""


def insert_switches(module: GraphModule, originals: Originals | None = None) -> list[Edge]:
    """Insert one switch for each edge, and return the edges in the order of the input ``SWITCHES``.

    Where a switch is on, the reader reads quantized and restored values, in float. No decision is left.

    Args:
        module: The module, its decisions complete.
        originals: What is read instead where the weight's switch is off, so that with all of them off nothing
            makes up for errors that are not there.

    """
    edit = Editor(module)
    places = [(decision, reader) for decision in _encoded(module, edit) for reader in _readers(decision)]
    switches = edit.add_input(SWITCHES, ir.DataType.BOOL, ir.Shape([len(places)]), why=WHY)
    inserted, op = _Switches(module, edit, originals or {}), edit.behind(switches, why=WHY)
    edges: list[Edge] = []
    for number, (decision, reader) in enumerate(places):
        value = decision.value
        place = op.constant(f"{name_of(value)}_place", np.array(number, np.int64))
        switch = op.Gather(switches, place, name=f"{name_of(value)}_switch")
        constant, dtype = constant_of(value) is not None, decision.encoding.dtype
        edges.append(Edge(name_of(value), None if reader is None else reader.name, constant, dtype))
        if constant and reader is not None and input_of(reader, 1) is value:
            inserted.weights[reader] = switch
        inserted.all.append((decision, reader, switch))
    inserted.insert()
    return edges


@dataclass
class _Switches:
    """The switches of one module, and what each of them chooses between.

    Args:
        module: The module.
        edit: Changes it.
        originals: See ``insert_switches``.
        all: Decisions, their readers and the switches of both.
        weights: The switch of each layer's weight.
        restored: What the encodings of constants make of them.
        grids: Scale and zero point of each encoding of an activation.

    """

    module: GraphModule
    edit: Editor
    originals: Originals
    all: list[tuple[Decision, ir.Node | None, ir.Value]] = field(default_factory=list)
    weights: dict[ir.Node, ir.Value] = field(default_factory=dict)
    restored: dict[Decision, ir.Value] = field(default_factory=dict)
    grids: dict[Decision, Grid] = field(default_factory=dict)

    def insert(self) -> None:
        """Put them all in; the nodes that only read changed constants come first, as they are as yet."""
        encoded = {(reader, decision.value) for decision, reader, _ in self.all}
        for node in list(self.module.graph):
            for number, value in enumerate(node.inputs):
                if value is not None and (node, value) not in encoded:
                    self._switch_original(node, number, value)
        for decision, reader, switch in self.all:
            if constant_of(decision.value) is None:
                self._switch_activation(decision, reader, switch)
            else:
                on, off = self._forms(decision, reader)
                _choose(decision.value, on, off, reader, switch, self.edit)

    def _switch_activation(self, decision: Decision, reader: ir.Node | None, switch: ir.Value) -> None:
        value, encoding = decision.value, decision.encoding
        if decision not in self.grids:
            self.grids[decision] = _grid(value, encoding, self.edit)
        chosen = _quantized_if(switch, value, self.grids[decision], encoding.axis, self.edit)
        self.edit.reroute(value, chosen, readers=[reader], why=WHY)

    def _switch_original(self, node: ir.Node, number: int, value: ir.Value) -> None:
        switch, original = self._switch_for(node), self._original(node, number, value)
        if switch is not None and original is not None:
            off = self.edit.constant(f"{name_of(value)}_original", original, why=WHY)
            self.edit.rewire(node, number, self._chosen(switch, value, off, node), why=WHY)

    def _forms(self, decision: Decision, reader: ir.Node | None) -> tuple[ir.Value, ir.Value]:
        """Return what ``reader`` reads with the switch on, and with it off."""
        value, encoding = decision.value, decision.encoding
        if decision not in self.restored:
            self.restored[decision] = _restored(value, encoding, self.edit)
        restored, number = (
            self.restored[decision],
            None if reader is None else list(reader.inputs).index(value),
        )
        original = None if reader is None or number is None else self._original(reader, number, value)
        if reader is None or original is None:
            return restored, value
        off = self.edit.constant(f"{name_of(value)}_original", original, why=WHY)
        switch = self._switch_for(reader)
        if number == 1 or switch is None:
            return restored, off
        name = f"{name_of(value)}_original_dq"
        on = self.edit.constant(name, encoding.restored(original), why=WHY)
        off = self._chosen(switch, value, off, reader)
        return self._chosen(switch, restored, on, reader), off

    def _original(self, node: ir.Node, number: int, value: ir.Value) -> NDArray[Any] | None:
        """Return what ``node`` read before its constant was changed; zeros where that was nothing."""
        place, now = (node.name or "", number), constant_of(value)
        if place not in self.originals or now is None:
            return None
        original = self.originals[place]
        return np.broadcast_to(np.zeros((), now.dtype) if original is None else original, now.shape).copy()

    def _switch_for(self, node: ir.Node) -> ir.Value | None:
        """Return the switch of the weight whose error ``node``, a layer or the Add behind it, takes out."""
        before = [value.producer() for value in node.inputs if value is not None]
        return next((self.weights[one] for one in (node, *before) if one in self.weights), None)

    def _chosen(self, switch: ir.Value, on: ir.Value, off: ir.Value, reader: ir.Node) -> ir.Value:
        place = self.edit.at(reader, why=WHY)
        return place.Where(switch, on, off, name=f"{off.name}_chosen", like=off)


def _encoded(module: GraphModule, edit: Editor) -> Iterator[Decision]:
    """Yield all that is decided, and take it off.

    Constants come last, as rows that are gathered from them may be encoded too.
    """
    values = dict.fromkeys(decision.value for decision in module.decisions())
    for value in sorted(values, key=lambda value: constant_of(value) is not None):
        yield from edit.realise(value)


def _readers(decision: Decision) -> list[ir.Node | None]:
    """Return who reads the value so; None stands for the model's output."""
    value = decision.value
    shown = decision.for_all and value.is_graph_output() and value.producer() is not None
    return [*decision.readers, *([None] if shown else [])]


def _restored(value: ir.Value, encoding: Encoding, edit: Editor) -> ir.Value:
    """Return what the encoding makes of a constant."""
    return edit.constant(f"{value.name}_dq", encoding.restored(array_of(value)), why=WHY)


def _grid(value: ir.Value, encoding: Encoding, edit: Editor) -> Grid:
    """Return scale and zero point for the pair that stands behind a switch.

    Raises:
        PassError: The encoding is written in another form than a pair, which has no switch yet.

    """
    if not isinstance(form_of(encoding), Pairs):
        name = type(encoding).__name__
        raise PassError(f"encodings of type {name} have no switch", where=f"value {name_of(value)!r}")
    return (
        edit.constant(f"{value.name}_scale", encoding.scale, why=WHY),
        edit.constant(f"{value.name}_zero_point", encoding.stored_zero, why=WHY),
    )


def _quantized_if(switch: ir.Value, value: ir.Value, grid: Grid, axis: int | None, edit: Editor) -> ir.Value:
    """Return ``value``, quantized and restored if the switch is on; if it is off, that costs nothing."""
    axes = {} if axis is None else {"axis": axis}
    name = switch.name
    quantized = ir.Value(name=f"{name}_q", type=ir.TensorType(grid[1].dtype or ir.DataType.UINT8))
    restored = ir.Value(name=f"{name}_dq", type=value.type, shape=value.shape)
    attributes = ir.convenience.convert_attributes(axes)
    on = [
        ir.Node("", "QuantizeLinear", [value, *grid], attributes, outputs=[quantized], name=quantized.name),
        ir.Node(
            "", "DequantizeLinear", [quantized, *grid], attributes, outputs=[restored], name=restored.name
        ),
    ]
    return edit.behind(value if value.producer() else switch, why=WHY).If(
        switch,
        then_branch=ir.Graph([], [restored], nodes=on, name=f"{name}_on"),
        else_branch=_same(value, f"{name}_off"),
        name=f"{value.name}_chosen",
        like=value,
    )


def _same(value: ir.Value, name: str) -> ir.Graph:
    """Return a branch that gives ``value``."""
    same = ir.Value(name=f"{name}_same", type=value.type, shape=value.shape)
    node = ir.Node("", "Identity", [value], outputs=[same], name=same.name)
    return ir.Graph([], [same], nodes=[node], name=name)


def _choose(
    value: ir.Value, on: ir.Value, off: ir.Value, reader: ir.Node | None, switch: ir.Value, edit: Editor
) -> None:
    """Let ``reader`` read one of two constants by its switch; rows of a table are chosen once gathered."""
    if reader is not None and is_standard(reader, "Gather") and reader.graph is value.graph:
        rows, axis = reader.outputs[0], attribute(reader, "axis", 0)
        op = edit.behind(rows, why=WHY)
        other = op.Gather(on, reader.inputs[1], axis=axis, name=f"{rows.name}_dq")
        edit.reroute(rows, _where(switch, other, rows, edit), why=WHY)
    elif reader is not None:
        edit.reroute(value, _either(switch, on, off, edit), readers=[reader], why=WHY)


def _either(switch: ir.Value, on: ir.Value, off: ir.Value, edit: Editor) -> ir.Value:
    """Return one of two weights: copying it takes a fifth of what choosing each element would."""
    return edit.behind(on if on.producer() else switch, why=WHY).If(
        switch,
        then_branch=_same(on, f"{switch.name}_on"),
        else_branch=_same(off, f"{switch.name}_off"),
        name=f"{off.name}_chosen",
        like=off,
    )


def _where(switch: ir.Value, on: ir.Value, off: ir.Value, edit: Editor) -> ir.Value:
    op = edit.behind(on if on.producer() else switch, why=WHY)
    return op.Where(switch, on, off, name=f"{off.name}_chosen", like=off)
