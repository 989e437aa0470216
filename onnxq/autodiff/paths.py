"""Which nodes a gradient runs through, from what is differentiated back to what it is asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxq.ir.module import is_standard, name_of

MOVING = ("Concat", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")


@dataclass(frozen=True)
class Paths:
    """All ways from some values, the ends, to others that they depend on, the sources.

    Args:
        made_of: The values that a small change of a source changes a little, and a value that each is made
            of; None for the sources themselves.
        made_into: The values on the way, and what each is made into on the way; None for an end.

    """

    made_of: Mapping[ir.Value, ir.Value | None]
    made_into: Mapping[ir.Value, ir.Value | None]

    @classmethod
    def between(
        cls, nodes: Sequence[ir.Node], ends: Iterable[ir.Value], sources: Iterable[ir.Value]
    ) -> Paths:
        """Find the ways through nodes in topological order."""
        made_of = _made_of(nodes, sources)
        return cls(made_of, _made_into(nodes, ends, made_of))

    def lead_through(self, node: ir.Node) -> bool:
        """Tell whether a way leads through the node."""
        return any(value in self.made_into and value in self.made_of for value in node.outputs)

    def wanted(self, node: ir.Node) -> list[int]:
        """Return the inputs by which a way goes on."""
        return [index for index, value in enumerate(node.inputs) if value in self.made_of]

    def told(self, node: ir.Node) -> str:
        """Return a way through the node in words: ``y <- Add 'sum' <- Relu 'act' <- x``."""
        value = next(one for one in node.outputs if one in self.made_into and one in self.made_of)
        values = [*reversed(list(_chain(value, self.made_into))), *list(_chain(value, self.made_of))[1:]]
        makers = [one.producer() for one in values[:-1]]
        steps = [f"{maker.op_type} {maker.name!r}" for maker in makers if maker is not None]
        return " <- ".join([name_of(values[0]), *steps, name_of(values[-1])])


def _chain(value: ir.Value | None, links: Mapping[ir.Value, ir.Value | None]) -> Iterator[ir.Value]:
    while value is not None:
        yield value
        value = links[value]


def _made_of(nodes: Iterable[ir.Node], sources: Iterable[ir.Value]) -> dict[ir.Value, ir.Value | None]:
    found: dict[ir.Value, ir.Value | None] = dict.fromkeys(sources)
    for node in nodes:
        read = next((value for value in read_by(node) if value in found), None)
        if read is not None:
            changed = [value for value in node.outputs if _changes_a_little(value, node, found)]
            found.update((value, read) for value in changed if value not in found)
    return found


def _changes_a_little(value: ir.Value, node: ir.Node, dependent: Collection[ir.Value | None]) -> bool:
    """Tell whether the value is of floats, or stands for floats: what is quantized, and moved after that."""
    if value.dtype is None or value.dtype.is_floating_point():
        return True
    moved = is_standard(node, *MOVING) and node.inputs[0] in dependent
    return moved or node.op_type == "QuantizeLinear"


def _made_into(
    nodes: Sequence[ir.Node], ends: Iterable[ir.Value], dependent: Collection[ir.Value]
) -> dict[ir.Value, ir.Value | None]:
    found: dict[ir.Value, ir.Value | None] = dict.fromkeys(ends)
    for node in reversed(nodes):
        made = next((value for value in node.outputs if value in found and value in dependent), None)
        if made is not None:
            read = (value for value in read_by(node) if value in dependent and value not in found)
            found.update((value, made) for value in read)
    return found


def read_by(node: ir.Node) -> Iterator[ir.Value]:
    """Yield what a node reads, and what its subgraphs read of the values around them."""
    yield from (value for value in node.inputs if value is not None)
    for attr in node.attributes.values():
        if attr.type == ir.AttributeType.GRAPH:
            inner = attr.as_graph()
            read = (*(value for one in inner for value in read_by(one)), *inner.outputs)
            yield from (value for value in read if value.graph is not inner)
