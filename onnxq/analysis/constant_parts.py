"""Parts of a graph that compute constants from constants alone: weight normalization, LoRA, tied tables.

A part is what one value is computed of, from constants to the last node before somebody reads it who has
other inputs too. Whether it is worth computing once is asked of the part and not of its nodes: what lies
between may be large, and may be read twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import prod

import onnx_ir as ir

from onnxq.analysis.weights import is_multiplied
from onnxq.ir.module import constant_tensor, is_standard

SMALL = 512 * 512
"""Elements of a result that is kept even where the file grows by them."""
ROOM = 4
"""How many times as large as its constants what lies within a part may be."""
RANDOM = frozenset(
    {
        "Bernoulli",
        "Dropout",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)


@dataclass(frozen=True)
class Part:
    """What computes ``value``: its constants, and the nodes in between."""

    value: ir.Value
    sources: dict[ir.Value, None] = field(default_factory=dict)
    nodes: dict[ir.Node, None] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """How many elements the constants have."""
        return sum(size_of(value) or 0 for value in self.sources)

    def is_worth_it(self) -> bool:
        """Tell whether the file gains, or hardly grows, by what is computed once.

        A weight is stored in few bits, and only then; and where a constant and its transpose are both read,
        both are stored as one (``share-constants``).
        """
        size = size_of(self.value)
        if size is None or any(not _fits(node, self.size) for node in self.nodes):
            return False
        return size <= SMALL or (size <= self.size and (is_multiplied(self.value) or self._is_read_once()))

    def _is_read_once(self) -> bool:
        inner = [value for node in self.nodes for value in node.outputs if value is not self.value]
        return all(len(value.uses()) == 1 for value in (*self.sources, *inner))


def worthwhile_nodes(graph: ir.Graph) -> set[ir.Node]:
    """Return the nodes, those of bodies included, that shall be computed once and for all."""
    found: set[ir.Node] = set()
    for part in constant_parts(graph):
        if part.is_worth_it():
            found.update(part.nodes)
    return found


def constant_parts(graph: ir.Graph) -> Iterator[Part]:
    """Yield the parts of a graph and of the bodies in it, in order."""
    nodes = list(ir.traversal.RecursiveGraphIterator(graph))
    constant = _constant_nodes(nodes)
    for node in nodes:
        if node in constant and _is_read_outside(node, constant):
            for value in node.outputs:
                yield _part_of(value)


def size_of(value: ir.Value) -> int | None:
    """Return the number of elements; None if it is not known."""
    axes = None if value.shape is None else [axis if isinstance(axis, int) else None for axis in value.shape]
    if axes is None or None in axes:
        return None
    return prod(axis or 0 for axis in axes)


def _constant_nodes(nodes: Iterable[ir.Node]) -> dict[ir.Node, None]:
    """Return the nodes whose inputs are all constants, or outputs of such nodes."""
    found: dict[ir.Node, None] = {}
    for node in nodes:
        inputs = [value for value in node.inputs if value is not None]
        known = all(constant_tensor(value) is not None or value.producer() in found for value in inputs)
        if inputs and known and _is_a_function(node):
            found[node] = None
    return found


def _is_a_function(node: ir.Node) -> bool:
    """Tell whether the node gives the same for the same, can be run by itself, and keeps no integers."""
    graphs = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    plain = is_standard(node) and node.op_type not in (*RANDOM, "DequantizeLinear", "QuantizeLinear")
    return plain and not any(attr.type in graphs for attr in node.attributes.values())


def _is_read_outside(node: ir.Node, constant: dict[ir.Node, None]) -> bool:
    return any(
        value.is_graph_output() or any(reader not in constant for reader in value.consumers())
        for value in node.outputs
    )


def _part_of(value: ir.Value) -> Part:
    part, left = Part(value), [value]
    while left:
        producer = left.pop().producer()
        if producer is None or producer in part.nodes:
            continue
        part.nodes[producer] = None
        for read in producer.inputs:
            if read is not None and constant_tensor(read) is not None:
                part.sources[read] = None
            elif read is not None:
                left.append(read)
    return part


def _fits(node: ir.Node, size: int) -> bool:
    sizes = [size_of(value) for value in node.outputs]
    return all(one is not None and one <= SMALL + ROOM * size for one in sizes)
