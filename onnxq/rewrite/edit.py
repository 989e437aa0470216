"""The Editor: the only way to change a graph, with a reason for each change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import NameFixPass

from onnxq.errors import PassError, PreconditionError
from onnxq.ir.knowledge import (
    Decision,
    classified,
    encoding_for_all,
    facts_on,
    note_classified,
    note_facts,
    note_for_all,
    note_own,
    own_encoding,
)
from onnxq.ir.module import name_of
from onnxq.ir.records import Remark
from onnxq.quant.encodings import Encoding
from onnxq.quant.facts import Facts
from onnxq.rewrite.builder import Builder, builder_at, builder_behind
from onnxq.rewrite.writer import Writer, plain_attributes


@dataclass
class Editor(Writer):
    """Changes the graph of one module, keeps names unique and what is known attached, and records why.

    Args:
        module: The module whose main graph is edited.
        edits: What was done, in order.
        remarks: What was left alone, and why.

    """

    remarks: list[Remark] = field(default_factory=list)

    def at(self, place: ir.Node | ir.Value, *, why: str) -> Builder:
        """Build right before a node, or before the one that computes a value.

        ``with edit.at(node, why="...") as op: y = op.Relu(x)``. Where that node goes, or reads something
        else, new nodes that read what it did do so encoded.
        """
        return builder_at(self, place, why)

    def behind(self, value: ir.Value, *, why: str) -> Builder:
        """Build right behind what computes ``value``, or at the front of the graph if nothing does."""
        return builder_behind(self, value, why)

    def reroute(
        self, value: ir.Value, to: ir.Value, *, why: str, readers: Iterable[ir.Node | None] | None = None
    ) -> None:
        """Let ``readers`` read ``to`` instead of ``value``, which must stand for the same real values.

        ``to`` inherits the facts, and what is decided for these readers.

        Args:
            value: What they read.
            to: What they read from now on; the output's name goes over to it.
            why: The reason.
            readers: Nodes, and None for the model's output; by default all of both.

        """
        self._record("reroute", f"{value.name} -> {to.name}", why)
        chosen = [*value.consumers(), None] if readers is None else list(readers)
        for_all, alone = encoding_for_all(value), _has_no_other_reader(to, value)
        moved = self._move_uses(value, to, [node for node in chosen if node is not None])
        if facts_on(to) is None:
            note_facts(to, facts_on(value))
        if readers is None:
            self._move_for_all(value, to, alone)
        if None in chosen and value.is_graph_output():
            if readers is not None and encoding_for_all(to) is None:
                note_for_all(to, for_all)
            self._take_over_output(value, to)
        if for_all is not None and (readers is not None or not alone):
            self._give_own(moved, for_all)

    def _move_uses(
        self, value: ir.Value, to: ir.Value, readers: Iterable[ir.Node]
    ) -> list[tuple[ir.Node, int]]:
        """Let nodes read ``to``, in what encodings they have for themselves, and return at which inputs."""
        moved = []
        for node in dict.fromkeys(readers):
            for index, read in enumerate(node.inputs):
                if read is value and node is not to.producer():
                    node.replace_input_with(index, to)
                    moved.append((node, index))
        self._keeper.move(value, to, [node for node, _ in moved])
        return moved

    def _move_for_all(self, value: ir.Value, to: ir.Value, alone: bool) -> None:
        """Let everyone read ``to`` encoded as they read ``value``.

        Raises:
            PassError: Others read ``to`` as it is, and so must an output that is to be encoded.

        """
        for_all, output = encoding_for_all(value), value.is_graph_output()
        self._keeper.move(value, to, [None])
        note_for_all(value, None)
        if for_all is not None and alone:
            note_for_all(to, for_all)
        elif for_all is not None and output and encoding_for_all(to) != for_all:
            raise PassError("an output is to be encoded that others read as it is", where=name_of(to))
        elif for_all is not None:
            self._keeper.give_up(value, [None])

    def _give_own(self, uses: Iterable[tuple[ir.Node, int]], encoding: Encoding) -> None:
        """Let inputs of nodes have the encoding that they read with everyone so far for themselves."""
        for node, index in uses:
            read = node.inputs[index]
            if own_encoding(node, index) is None and read is not None and encoding_for_all(read) != encoding:
                note_own(node, index, encoding)

    def replace(self, value: ir.Value, to: ir.Value, *, why: str) -> None:
        """Let everyone read ``to`` instead of ``value``, under the name of ``value``.

        From then on no edit may mention ``value``: whoever still does holds a view from before.
        """
        name = name_of(value)
        self.reroute(value, to, why=why)
        self._replaced[value] = name
        to.type, to.shape = value.type or to.type, value.shape or to.shape
        if not to.is_graph_output():
            self._take_over_name(value, to)

    def rewire(self, node: ir.Node, index: int, to: ir.Value | None, *, why: str) -> None:
        """Let one input of ``node`` read ``to``, which may be other numbers; add it where there are too few.

        An encoding that the node has for this input goes to added nodes that read the value instead.
        """
        self._check_current([to])
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        if node.inputs[index] is not to:
            note_own(node, index, None)
        node.replace_input_with(index, to)
        self._record("rewire", f"{node.name}[{index}] -> {name_of(to)}", why)

    def rescale(
        self,
        value: ir.Value,
        scale: NDArray[Any],
        shift: NDArray[Any],
        *,
        axis: int | None,
        why: str,
        to: ir.Value | None = None,
    ) -> None:
        """Note that ``to`` (default: ``value`` itself) holds ``(x - shift) / scale`` for each channel of it.

        A value that stands for other numbers than before gets a new name, since names are what tables go
        by. Facts move over as far as they are known exactly; the others will be measured again.

        Args:
            value: No output of the model, and not encoded.
            scale: Shape (C,), > 0.
            shift: Shape (C,).
            axis: The channel axis, counted from the end; None if the channels lie along several axes.
            why: The reason.
            to: A new value that holds the numbers, where ``value`` keeps its own.

        Raises:
            PreconditionError: ``value`` is an output or encoded, so that its numbers may not change.

        """
        name = name_of(value)
        if to is None and (value.is_graph_output() or self.module.is_encoded(value)):
            raise PreconditionError("its numbers may not change", where=f"value {name!r}")
        facts = facts_on(value)
        if to is None:
            value.name = self._unique(f"{name}_folded")
        note_facts(to or value, None if facts is None else facts.rescaled(scale, shift, axis))
        self._record("rescale", f"{name} -> {name_of(to or value)}", why)

    def hold(
        self, value: ir.Value, low: NDArray[Any], high: NDArray[Any], *, axis: int, to: ir.Value, why: str
    ) -> None:
        """Note that ``to`` holds ``clip(x, low, high)`` for each channel of ``value``, whose facts move over.

        Args:
            value: Keeps its numbers.
            low: Shape (C,).
            high: Shape (C,).
            axis: The channel axis, counted from the end.
            to: A new value.
            why: The reason.

        """
        facts = facts_on(value)
        note_facts(to, None if facts is None else facts.held(low, high, axis))
        self._record("hold", f"{name_of(value)} -> {name_of(to)}", why)

    def set_attribute(self, node: ir.Node, name: str, value: Any, *, why: str) -> None:
        """Give one attribute of ``node`` another value."""
        node.attributes[name] = ir.convenience.convert_attribute(name, value)
        self._record("rewrite", f"{node.name}.{name}", why)

    def set_dtype(self, value: ir.Value, dtype: ir.DataType, *, why: str) -> None:
        """Note that ``value`` is now of another type, because what computes it is."""
        value.type = ir.TensorType(dtype)
        self._record("retype", f"{value.name}: {dtype.name}", why)

    def retype(
        self,
        node: ir.Node,
        op_type: str,
        *,
        why: str,
        inputs: Sequence[ir.Value | None] | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Make ``node`` another operator with the same outputs, these attributes, and perhaps other inputs.

        What it reads still, it reads encoded as before.
        """
        self._record("rewrite", f"{node.name}: {node.op_type} -> {op_type}", why)
        node.domain, node.op_type = "", op_type
        node.attributes.clear()
        for attr in plain_attributes(attributes or {}):
            node.attributes[attr.name] = attr
        if inputs is not None:
            self._read(node, inputs)

    def _read(self, node: ir.Node, inputs: Sequence[ir.Value | None]) -> None:
        """Give a node these inputs and no others."""
        self._check_current(inputs)
        own = {value: own_encoding(node, index) for index, value in enumerate(node.inputs)}
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)
            note_own(node, index, None)
        node.resize_inputs(len(inputs))
        for index, value in enumerate(inputs):
            node.replace_input_with(index, value)
            note_own(node, index, own.get(value))

    def remove(self, node: ir.Node, *, why: str) -> None:
        """Remove a node that nobody reads."""
        self.module.graph.remove(node, safe=True)
        self._record(f"remove {node.op_type}", node.name or "", why)

    def encode(
        self,
        value: ir.Value,
        encoding: Encoding,
        *,
        why: str,
        readers: Sequence[ir.Node] | None = None,
    ) -> None:
        """Decide the encoding of ``value`` for ``readers``; by default for all, the graph's output too.

        What was decided for them before is replaced; other readers keep what they have.

        Raises:
            PassError: A node does not read the value.

        """
        self._check_current([value])
        self._record("encode", name_of(value), why)
        self._keeper.decide()
        if readers is None:
            note_for_all(value, encoding)
        own = None if encoding_for_all(value) == encoding else encoding
        for node in value.consumers() if readers is None else readers:
            for index in _places(node, value):
                note_own(node, index, own)

    def assume(self, value: ir.Value, facts: Facts, *, why: str) -> None:
        """Take ``facts`` about ``value`` as known without measuring it; those that are known already stay."""
        if facts_on(value) is None:
            note_facts(value, facts)
            self._record("assume", name_of(value), why)

    def classify(self, outputs: Iterable[str], *, why: str) -> None:
        """Say of these outputs that their last axis counts classes, besides those of which it was said."""
        for name in outputs:
            note_classified(self.module.graph, classified(self.module.graph) | {name})
            self._record("classify", name, why)

    def forget(self, value: ir.Value, *, why: str, readers: Sequence[ir.Node] | None = None) -> None:
        """Give up what is decided of ``value`` for ``readers``; by default for all."""
        decisions = self.module.decisions(value)
        if not decisions:
            return
        self._record("forget", name_of(value), why)
        for decision in decisions:
            if decision.for_all:
                note_for_all(value, None)
                self._keeper.give_up(value, [None])
            lost = decision.readers if readers is None else readers
            self._keeper.give_up(value, lost)
            for use in decision.uses:
                note_own(use.node, use.idx, None if use.node in lost else decision.encoding)

    def realise(self, value: ir.Value) -> list[Decision]:
        """Take what is decided of ``value`` off it, for the caller to write into the graph, and return it."""
        decisions = self.module.decisions(value)
        if decisions:
            self.forget(value, why="realised")
        return decisions

    def settle(self) -> None:
        """Require that no decision was lost; what nobody reads any more goes to added nodes that do.

        Raises:
            PassError: A decision was lost: its value or reader is gone, and was not replaced.

        """
        self._keeper.settle()

    def add_input(self, name: str, dtype: ir.DataType, shape: ir.Shape, *, why: str) -> ir.Value:
        """Add an input to the model."""
        value = ir.Value(name=self._unique(name), type=ir.TensorType(dtype), shape=shape)
        self.module.graph.inputs.append(value)
        self._record("add input", name_of(value), why)
        return value

    def set_inputs(self, values: Sequence[ir.Value], *, why: str) -> None:
        """Let these be the inputs of the model, and no others; nothing may depend on those that go."""
        self.module.graph.inputs[:] = values
        self._record("inputs", ", ".join(map(name_of, values)), why)

    def set_outputs(self, values: Sequence[ir.Value], *, why: str) -> None:
        """Let these be the outputs of the model, and no others."""
        self.module.graph.outputs[:] = values
        self._record("outputs", ", ".join(map(name_of, values)), why)

    def apply(self, change: Callable[[ir.Model], ir.Model], *, why: str) -> None:
        """Let a library change the whole model; ``change`` returns the model to go on with.

        Nodes that the library left without a name get one. Inputs and outputs keep the shapes that the
        model states, even where a library finds that some of them can never be fed. What is known and
        decided stays on values and nodes, and is put back, by name, where the library has made new ones.

        Raises:
            PassError: Something is decided of a value or for a node that are gone.

        """
        self._keeper.settle()
        known, classes = self.module.facts(), classified(self.module.graph)
        stated = {
            name_of(value): value.shape.copy() for value in self._interface() if value.shape is not None
        }
        self.module.model = NameFixPass()(change(self.module.model)).model
        note_classified(self.module.graph, classes)
        for value in self._interface():
            value.shape = stated.get(name_of(value), value.shape)
        for value in self.module.values() if known else ():
            if facts_on(value) is None:
                note_facts(value, known.get(name_of(value)))
        self._keeper.follow()
        self._look_at_names_again()
        self._record("rewrite", "model", why)

    def _interface(self) -> list[ir.Value]:
        return [*self.module.graph.inputs, *self.module.graph.outputs]

    def skip(self, node: ir.Node, reason: str) -> None:
        """Note that ``node`` was left alone."""
        self.remarks.append(Remark(node.name or "", node.op_type, reason))

    def _take_over_output(self, value: ir.Value, to: ir.Value) -> None:
        """Put ``to`` in the place of an output, under the output's name."""
        outputs = self.module.graph.outputs
        for index, output in enumerate(outputs):
            if output is value:
                outputs[index] = to
        to.type, to.shape = to.type or value.type, to.shape or value.shape
        self._take_over_name(value, to)

    def _take_over_name(self, value: ir.Value, to: ir.Value) -> None:
        name, old = name_of(value), name_of(to)
        value.name, to.name = self._unique(f"{name}_inner"), name
        if facts_on(value) is not None:
            note_facts(to, facts_on(value))
        self._names.discard(old)
        self._taken.clear()


def _has_no_other_reader(to: ir.Value, value: ir.Value) -> bool:
    """Tell whether nobody reads ``to``, but perhaps the node that computes ``value``."""
    return not to.is_graph_output() and all(node is value.producer() for node in to.consumers())


def _places(node: ir.Node, value: ir.Value) -> list[int]:
    """Return at which of its inputs ``node`` reads ``value``.

    Raises:
        PassError: It does not.

    """
    places = [index for index, read in enumerate(node.inputs) if read is value]
    if not places:
        raise PassError(f"node {node.name!r} does not read it", where=f"value {name_of(value)!r}")
    return places
