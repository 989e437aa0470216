"""Blocks: the parts of a graph between values that all numbers pass through, as residual sums are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass

import onnx_ir as ir

from onnxq.ir.module import GraphModule, is_float

IsLayer = Callable[[ir.Node], bool]


@dataclass(frozen=True)
class Block:
    """Nodes behind one value that lead to another.

    Args:
        nodes: In the order of the graph.
        reads: What they read of computed values and inputs around them: the output of the block before, and
            what depends on no layer.
        output: What the block computes.

    """

    nodes: tuple[ir.Node, ...]
    reads: tuple[ir.Value, ...]
    output: ir.Value


def find_blocks(module: GraphModule, is_layer: IsLayer) -> list[Block]:
    """Return the blocks with a layer, in order; each reads the output of the one before.

    A residual branch lies within a block with its sum; so does what follows a layer up to the next one.
    Nodes that depend on no layer belong to none, and neither do those behind the last value that everything
    passes through, if several outputs lie there.

    Args:
        module: Its main graph; nodes without a reader count.
        is_layer: Tells whether a block shall form around a node.

    """
    behind = _behind(module.graph, is_layer)
    segments = list(_segments([node for node in module.graph if node in behind]))
    ends = ((nodes, _output(nodes, behind)) for nodes in _merged(segments, is_layer))
    return [_block(nodes, output) for nodes, output in ends if output is not None]


def _behind(nodes: ir.Graph, is_layer: IsLayer) -> set[ir.Node]:
    """Return the layers, and what computes floats of theirs."""
    found: set[ir.Node] = set()
    for node in nodes:
        made = [value for value in node.inputs if value is not None and value.producer() in found]
        computes = any(map(is_float, node.outputs)) and any(map(is_float, made))
        if computes or is_layer(node):
            found.add(node)
    return found


def _segments(nodes: Sequence[ir.Node]) -> Iterator[list[ir.Node]]:
    """Yield the nodes up to each value that is all that later ones read of those before."""
    places = {node: place for place, node in enumerate(nodes)}
    last = {
        value: max((places.get(use.node, -1) for use in value.uses()), default=-1)
        for node in nodes
        for value in node.outputs
    }
    segment: list[ir.Node] = []
    live: set[ir.Value] = set()
    for place, node in enumerate(nodes):
        segment.append(node)
        live = {value for value in (*live, *node.outputs) if last[value] > place}
        if len(live) == 1 and live <= set(node.outputs):
            yield segment
            segment = []
    if segment:
        yield segment


def _merged(segments: Sequence[list[ir.Node]], is_layer: IsLayer) -> Iterator[list[ir.Node]]:
    """Yield segments with a layer, each with those behind it that have none."""
    nodes: list[ir.Node] = []
    for segment in segments:
        if nodes and any(map(is_layer, segment)):
            yield nodes
            nodes = []
        nodes = [*nodes, *segment]
    if nodes:
        yield nodes


def _block(nodes: Sequence[ir.Node], output: ir.Value) -> Block:
    own = set(nodes)
    read = dict.fromkeys(value for node in nodes for value in node.inputs if value is not None)
    outer = tuple(v for v in read if v.producer() not in own and not v.is_initializer())
    return Block(tuple(nodes), outer, output)


def _output(nodes: Sequence[ir.Node], behind: Set[ir.Node]) -> ir.Value | None:
    """Return the one value that others read, or the model's output; None if there are more."""
    later = behind - set(nodes)
    made = [value for node in nodes for value in node.outputs]
    read = [v for v in made if v.is_graph_output() or any(use.node in later for use in v.uses())]
    return read[0] if len(read) == 1 and is_float(read[0]) else None
