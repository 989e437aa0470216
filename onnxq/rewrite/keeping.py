"""Keeping decisions while a graph changes: each is read still, moved, given up, or else was lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from onnxq.errors import PassError
from onnxq.ir.knowledge import encoding_at, encoding_for_all, note_for_all, note_own
from onnxq.ir.module import GraphModule, name_of
from onnxq.quant.encodings import Encoding


@dataclass(frozen=True, eq=False)
class Held:
    """A decision that a change must not lose.

    Args:
        value: What is encoded.
        reader: The node that reads it so; None if it is decided for everyone.
        encoding: How it is encoded.

    """

    value: ir.Value
    reader: ir.Node | None
    encoding: Encoding


@dataclass
class Keeper:
    """Knows the decisions of a module as they were, and what became of them.

    Only what an output depends on counts: dead nodes may go with all that was decided for them.

    Args:
        module: The module.
        made: The nodes that were added since.

    """

    module: GraphModule
    made: list[ir.Node] = field(default_factory=list)
    _decided: bool = field(default=True, init=False)
    _held: list[Held] = field(default_factory=list, init=False)
    _moved: dict[tuple[ir.Value, ir.Node | None], ir.Value] = field(default_factory=dict, init=False)
    _given_up: set[tuple[ir.Value, ir.Node | None]] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        """Look at what is decided now."""
        self._hold()

    def move(self, value: ir.Value, to: ir.Value, readers: Iterable[ir.Node | None]) -> None:
        """Note that ``readers``, and everyone if None is among them, read ``to`` instead of ``value``."""
        self._moved |= {(value, reader): to for reader in readers if value is not to}

    def decide(self) -> None:
        """Note that something is decided now."""
        self._decided = True

    def give_up(self, value: ir.Value, readers: Iterable[ir.Node | None]) -> None:
        """Note that the decision for ``readers``, and for everyone if None is among them, was taken back."""
        self._given_up |= {(value, reader) for reader in readers}

    def settle(self) -> None:
        """Hand what nobody reads any more to added nodes that read the same value.

        Raises:
            PassError: There is no such node.

        """
        live = live_nodes(self.module.graph) if self._held else None
        for held in self._held:
            self._keep(held, live or set())
        self._hold(live)

    def follow(self) -> None:
        """Look for all that is held in another model, by name, and put back what it has forgotten.

        Raises:
            PassError: A value is gone, or a node that reads it, or an output depends on it no more.

        """
        if self._held:
            values = self.module.by_name()
            nodes = {node.name: node for node in self.module.graph.all_nodes()}
            self._held = [
                _put_back(held, values.get(name_of(held.value)), held.reader and nodes.get(held.reader.name))
                for held in self._held
            ]
            self.settle()

    def _hold(self, live: set[ir.Node] | None = None) -> None:
        self.made, self._moved, self._given_up = [], {}, set()
        decisions = self.module.decisions() if self._decided else []
        self._decided = bool(decisions)
        live = live or (live_nodes(self.module.graph) if decisions else set())
        self._held = []
        for one in decisions:
            readers = [node for node in one.readers if node in live]
            if one.for_all and (readers or one.value.is_graph_output()):
                self._held.append(Held(one.value, None, one.encoding))
            if not one.for_all:
                self._held += [Held(one.value, node, one.encoding) for node in readers]

    def _keep(self, held: Held, live: set[ir.Node]) -> None:
        value = self._now(held)
        if value is None:
            return
        if held.reader is None:
            read = value.is_graph_output() or not live.isdisjoint(value.consumers())
            if encoding_for_all(value) is None or not read:
                raise _lost(held)
            return
        if held.reader in live and any(
            encoding_at(held.reader, index) is not None for index in _places(held.reader, value)
        ):
            return
        heirs = [(node, index) for node in self.made if node in live for index in _places(node, value)]
        if not heirs:
            raise _lost(held)
        for node, index in heirs:
            if encoding_at(node, index) is None:
                note_own(node, index, held.encoding)

    def _now(self, held: Held) -> ir.Value | None:
        """Return what stands in the place of the value for this reader; None if that was given up."""
        value: ir.Value | None = held.value
        while value is not None and (value, held.reader) not in self._given_up:
            to = self._moved.get((value, held.reader), self._moved.get((value, None)))
            if to is None:
                return value
            value = to
        return None


def _put_back(held: Held, value: ir.Value | None, reader: ir.Node | None) -> Held:
    """Return what is held, now of these; a use or a value that has an encoding keeps it."""
    places = [] if reader is None or value is None else _places(reader, value)
    if value is None or (held.reader is not None and not places):
        raise _lost(held)
    if held.reader is None and encoding_for_all(value) is None:
        note_for_all(value, held.encoding)
    for index in places:
        if reader is not None and encoding_at(reader, index) is None:
            note_own(reader, index, held.encoding)
    return Held(value, reader, held.encoding)


def live_nodes(graph: ir.Graph) -> set[ir.Node]:
    """Return the nodes that an output depends on, and those in their subgraphs."""
    live: set[ir.Node] = set()
    left = [value.producer() for value in graph.outputs]
    while left:
        node = left.pop()
        if node is not None and node not in live:
            live.add(node)
            left += [value.producer() for value in node.inputs if value is not None]
            left += [inner for subgraph in _subgraphs(node) for inner in subgraph.all_nodes()]
    return live


def _subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    for attr in node.attributes.values():
        if attr.type == ir.AttributeType.GRAPH:
            yield attr.as_graph()
        elif attr.type == ir.AttributeType.GRAPHS:
            yield from attr.as_graphs()


def _places(node: ir.Node, value: ir.Value) -> list[int]:
    """Return at which of its inputs ``node`` reads ``value``."""
    return [index for index, read in enumerate(node.inputs) if read is value]


def _lost(held: Held) -> PassError:
    reader = "everyone" if held.reader is None else f"node {held.reader.name!r}"
    return PassError(
        f"the pass loses the encoding that was decided for {reader}",
        where=f"value {name_of(held.value)!r}",
        hint="put it before the passes that encode",
    )
