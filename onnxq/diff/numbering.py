"""Value numbering: a digest of what each value computes, in which names do not count.

Two values with the same number are the same function of the same leaves, bit for bit. It is the classic
method of compilers to find equal expressions (Alpern, Wegman and Zadeck, 1988).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import onnx_ir as ir

from onnxq.diff.flat import COMMUTATIVE, Flat, subgraphs
from onnxq.ir.digest import tensor_digest

_ABSENT = "absent"


def number_values(flat: Flat, leaves: Mapping[ir.Value, str]) -> dict[ir.Value, str]:
    """Return the number of everything that nodes make.

    Args:
        flat: The model.
        leaves: What stands for a value wherever it is read; what computes it does not count then.

    """
    numbers: dict[ir.Value, str] = {}

    def read(value: ir.Value | None) -> str:
        if value is None:
            return _ABSENT
        return leaves.get(value) or numbers.get(value) or constant_number(value) or _inner_input(value)

    for node in flat.nodes:
        inputs = [read(value) for value in node.inputs]
        while inputs and inputs[-1] == _ABSENT:
            inputs.pop()
        if node.op_type in COMMUTATIVE and node.domain in ("", "ai.onnx"):
            inputs.sort()
        inner = [read(value) for graph in subgraphs(node) for value in graph.outputs]
        base = _digest(operator_text(node), *inputs, *inner)
        for place, value in enumerate(node.outputs):
            numbers[value] = f"{base}:{place}"
    return numbers


def operator_text(node: ir.Node) -> str:
    """Return operator and plain attributes of a node as text."""
    plain = (
        f"{name}={_attribute_text(attr)}"
        for name, attr in sorted(node.attributes.items())
        if attr.type not in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    )
    return f"{node.domain}.{node.op_type} {' '.join(plain)}"


def constant_number(value: ir.Value) -> str | None:
    """Return the digest of a constant's type, shape and bytes; None for anything else."""
    return None if value.const_value is None else tensor_digest(value.const_value)


def _inner_input(value: ir.Value) -> str:
    """Return what stands for the input of a loop's body: its place."""
    graph = value.graph
    places = list(graph.inputs) if isinstance(graph, ir.Graph) else []
    return f"input {places.index(value) if value in places else value.name}"


def _attribute_text(attr: ir.Attr) -> str:
    if attr.is_ref():
        return str(attr.ref_attr_name)
    return tensor_digest(attr.as_tensor()) if attr.type == ir.AttributeType.TENSOR else str(attr.value)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
