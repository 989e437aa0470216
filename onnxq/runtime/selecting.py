"""Models that select boxes: what they read to select is compared, and not how many they took.

A box whose score lies at the threshold is taken by one of two models that are as good as equal, and all that
follow it stand in another row. What NonMaxSuppression reads does not jump.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from onnxq.ir.protos import inner_graphs

SELECTS = "NonMaxSuppression"
_READ = ("boxes", "scores")


def compare_before(model: onnx.ModelProto) -> tuple[str, ...]:
    """Let the model return what each NonMaxSuppression of its graph reads, too.

    Returns:
        The names of the outputs that depend on what was selected, in order; none where nothing selects.

    """
    selecting = [node for node in model.graph.node if node.op_type == SELECTS and not node.domain]
    if not selecting:
        return ()
    behind = _behind(model.graph, {name for node in selecting for name in node.output})
    for number, node in enumerate(selecting):
        for kind, name in zip(_READ, node.input, strict=False):
            shown = f"{SELECTS}_{number}_{kind}"
            model.graph.node.append(onnx.helper.make_node("Identity", [name], [shown]))
            model.graph.output.append(onnx.ValueInfoProto(name=shown))
    return tuple(value.name for value in model.graph.output if value.name in behind)


def _behind(graph: onnx.GraphProto, found: set[str]) -> set[str]:
    """Add the names of all values that depend on those found; nodes may stand in any order."""
    before = -1
    while len(found) > before:
        before = len(found)
        for node in graph.node:
            if not found.isdisjoint(_reads(node)):
                found.update(node.output)
    return found


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    yield from node.input
    for graph in inner_graphs(node):
        yield from (value.name for value in graph.output)
        for inner in graph.node:
            yield from _reads(inner)
