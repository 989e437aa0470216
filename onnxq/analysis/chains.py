"""Integer chains: operators between quantized layers that run on the layers' integers as they are.

Between two convolutions in integers, an operator in float costs a DequantizeLinear, a QuantizeLinear, and in
ONNX Runtime two changes of layout, as its integer convolutions work channels last. Operators with a kernel
for 8-bit integers need none of these.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from onnxq.analysis.layers import SELECTING, clamped, keeps_grid
from onnxq.ir.module import GraphModule, constant_of, is_float, is_standard

ARITHMETIC = frozenset({"Add", "Mul"})
"""What takes constants beside computed values."""

COMPUTING = ARITHMETIC | {"AveragePool", "Concat", "GlobalAveragePool", "LeakyRelu", "Sigmoid"}
"""Operators for which onnxruntime 1.32.0 makes a QLinear kernel of QDQ on all sides, on the CPU."""

MOVING = SELECTING | {"Pad", "Resize", "Split"}
"""Operators that run on integers as they are, if ``keeps_grid`` says so; Pad by ``pad-integers``."""

JOINING = ARITHMETIC | {"Concat"}
"""Those of which every input is data; of the others the first is."""


@dataclass(frozen=True)
class Link:
    """One operator of a chain.

    Args:
        node: The operator.
        inputs: The computed values that it reads.
        constants: The constants that it reads as data.
        outputs: What it gives, behind a Relu or Clip where that follows.

    """

    node: ir.Node
    inputs: tuple[ir.Value, ...]
    constants: tuple[ir.Value, ...]
    outputs: tuple[ir.Value, ...]


def links_between(module: GraphModule, made: set[ir.Value], read: set[ir.Value]) -> list[Link]:
    """Return the operators that lie between quantized layers, with integers on all sides, in graph order.

    Args:
        module: The graph.
        made: Values that are quantized for all of their readers, as outputs of layers are.
        read: Values that layers read quantized.

    """
    found, integers = [], set(made)
    for node in module.graph:
        link = _link_of(node)
        if link is not None and integers.intersection(link.inputs) and integers | read >= {*link.inputs}:
            integers.update(link.outputs)
            found.append(link)
    return list(_leading_to(set(read), found))[::-1]


def _leading_to(wanted: set[ir.Value], links: list[Link]) -> Iterator[Link]:
    """Yield, last first, the links from which a way leads to what is wanted."""
    for link in reversed(links):
        if wanted.intersection(link.outputs):
            wanted.update(link.inputs)
            yield link


def _link_of(node: ir.Node) -> Link | None:
    """Return the operator with what flows through it; None if it has no kernel for integers."""
    if not is_standard(node, *COMPUTING) and not (is_standard(node, *MOVING) and keeps_grid(node)):
        return None
    data = node.inputs if is_standard(node, *JOINING) else node.inputs[:1]
    values = tuple(value for value in data if value is not None)
    outputs = tuple(clamped(value) for value in node.outputs)
    if not all(map(is_float, values + outputs)) or any(value.is_graph_output() for value in outputs):
        return None
    constants = tuple(value for value in values if constant_of(value) is not None)
    if constants and not is_standard(node, *ARITHMETIC):
        return None
    return Link(node, tuple(value for value in values if value not in constants), constants, outputs)
