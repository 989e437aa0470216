"""What passes share that move values from one float type to another."""

from __future__ import annotations

import onnx_ir as ir

from onnxq.ir.module import is_standard, name_of
from onnxq.rewrite.edit import Editor


def cast(value: ir.Value, dtype: ir.DataType, suffix: str, edit: Editor, *, why: str) -> ir.Value:
    """Return ``value`` as ``dtype``, cast right after it is computed, or at the front for an input."""
    return edit.behind(value, why=why).Cast(value, to=int(dtype), name=f"{name_of(value)}_{suffix}")


def drop_empty_cast(node: ir.Node, dtype: ir.DataType, edit: Editor, *, why: str) -> None:
    """Remove a Cast from what is ``dtype`` now to ``dtype``; one that computes an output keeps its name."""
    if not is_standard(node, "Cast") or node.inputs[0] is None or node.outputs[0].is_graph_output():
        return
    if node.inputs[0].dtype == node.outputs[0].dtype == dtype:
        edit.reroute(node.outputs[0], node.inputs[0], why=why)
        edit.remove(node, why=why)


def has_subgraph(node: ir.Node) -> bool:
    """Tell whether the node runs a graph of its own, as If and Loop do."""
    kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return any(attr.type in kinds for attr in node.attributes.values())
