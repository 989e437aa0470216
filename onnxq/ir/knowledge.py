"""What is known and decided of values, kept on the graph itself, so that nothing can leave it behind.

Facts lie on the value that they were measured on. An encoding lies on the use that reads it, a node and the
number of its input, or on the value, for everyone who reads it, the graph's output included. Both stay where
they are when anything is renamed, and go along when a model is cloned. Nothing of it is written into a file.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import onnx_ir as ir

from onnxq.quant.encodings import Encoding
from onnxq.quant.facts import Facts

FACTS = "onnxq_facts"
"""On a value: its Facts."""
FOR_ALL = "onnxq_encoding"
"""On a value: the Encoding that everyone reads who has none of their own."""
ORIGIN = "onnxq_origin"
"""On a node that a pass built: the name of the node in whose place it stands."""
BY_INPUT = "onnxq_encodings"
"""On a node: its own Encodings, by the number of the input. Clones share it: it is replaced, not changed."""


CLASSIFIED = "onnxq_classified"
"""On a graph: the names of its outputs whose last axis counts classes, as somebody said."""


class Use(NamedTuple):
    """One input of a node."""

    node: ir.Node
    idx: int


@dataclass(frozen=True, eq=False)
class Decision:
    """One encoding of a value, and who reads the value so.

    Args:
        value: What is encoded.
        encoding: How.
        uses: The inputs of nodes that read it so now.
        for_all: Whether whoever reads the value reads it so, the graph's output included, if nothing else is
            decided for them.

    """

    value: ir.Value
    encoding: Encoding
    uses: tuple[Use, ...]
    for_all: bool

    @property
    def readers(self) -> list[ir.Node]:
        """The nodes that read it so."""
        return list(dict.fromkeys(use.node for use in self.uses))


@dataclass(frozen=True)
class NamedDecision:
    """A decision as text tells it, by the names that values and nodes have at the moment.

    Args:
        value: The value's name.
        encoding: How it is encoded.
        readers: Names of the nodes that read it so; None if everyone does.

    """

    value: str
    encoding: Encoding
    readers: frozenset[str] | None = None


def facts_on(value: ir.Value) -> Facts | None:
    """Return what was measured of the value."""
    found: Facts | None = value.meta.data.get(FACTS)
    return found


def note_facts(value: ir.Value, facts: Facts | None) -> None:
    """Put facts on the value in the place of what lay there; None takes them away."""
    _note(value.meta, FACTS, facts)


def encoding_for_all(value: ir.Value) -> Encoding | None:
    """Return the encoding that everyone reads who has none of their own."""
    found: Encoding | None = value.meta.data.get(FOR_ALL)
    return found


def note_for_all(value: ir.Value, encoding: Encoding | None) -> None:
    """Put an encoding on the value for everyone; None takes it away."""
    _note(value.meta, FOR_ALL, encoding)


def own_encoding(node: ir.Node, index: int) -> Encoding | None:
    """Return the encoding that one input of the node has for itself."""
    found: Encoding | None = node.meta.data.get(BY_INPUT, {}).get(index)
    return found


def note_own(node: ir.Node, index: int, encoding: Encoding | None) -> None:
    """Give one input of the node an encoding for itself; None takes it away."""
    own = {other: kept for other, kept in node.meta.data.get(BY_INPUT, {}).items() if other != index}
    if encoding is not None:
        own[index] = encoding
    _note(node.meta, BY_INPUT, own or None)


def encoding_at(node: ir.Node, index: int) -> Encoding | None:
    """Return the encoding that an input of the node reads; None if it reads floats, or nothing."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        return None
    own = own_encoding(node, index)
    return encoding_for_all(value) if own is None else own


def classified(graph: ir.Graph) -> frozenset[str]:
    """Return the names of outputs of which somebody said that their last axis counts classes."""
    found: frozenset[str] = graph.meta.data.get(CLASSIFIED, frozenset())
    return found


def note_classified(graph: ir.Graph, outputs: frozenset[str]) -> None:
    """Say it of these outputs, and of no others."""
    _note(graph.meta, CLASSIFIED, outputs or None)


def origin_of(node: ir.Node) -> str:
    """Return the name of the first node in whose place this one stands; its own if no pass built it."""
    return str(node.meta.get(ORIGIN, node.name or ""))


def note_origin(node: ir.Node, place: ir.Node) -> None:
    """Say that ``node`` stands in the place of another."""
    _note(node.meta, ORIGIN, origin_of(place))


def decisions_on(value: ir.Value) -> list[Decision]:
    """Return what is decided for the value: for everyone first, then by uses."""
    for_all, uses = encoding_for_all(value), value.uses()
    if for_all is None and not any(BY_INPUT in use.node.meta.data for use in uses):
        return []  # as with most values
    read = [(own_encoding(use.node, use.idx), Use(use.node, use.idx)) for use in uses]
    by_encoding: dict[Encoding | None, list[Use]] = {}
    for own, use in read:
        by_encoding.setdefault(own, []).append(use)
    others = by_encoding.pop(None, [])
    found = [] if for_all is None else [Decision(value, for_all, tuple(others), True)]
    return found + [
        Decision(value, own, tuple(uses), False) for own, uses in by_encoding.items() if own is not None
    ]


def stale_inputs(node: ir.Node) -> Iterator[int]:
    """Yield the numbers of inputs that have encodings for themselves, and read nothing."""
    for index in node.meta.data.get(BY_INPUT, {}):
        if index >= len(node.inputs) or node.inputs[index] is None:
            yield index


def _note(meta: MutableMapping[str, Any], key: str, content: object) -> None:
    if content is None:
        meta.pop(key, None)
    else:
        meta[key] = content
