"""Small questions about what stands beside a value."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnxq.ir.module import constant_of, is_standard, sole_reader


def scalar_of(value: ir.Value | None) -> float | None:
    """Return the number of a constant that holds one number and has at most one axis."""
    array = constant_of(value)
    return float(array.reshape(())) if array is not None and array.size == 1 and array.ndim <= 1 else None


def operand_beside(value: ir.Value, op_type: str) -> tuple[ir.Node, ir.Value] | None:
    """Return the node ``op_type`` that alone reads ``value``, and its other operand."""
    reader = sole_reader(value)
    if reader is None or not is_standard(reader, op_type) or len(reader.inputs) != 2:
        return None
    other = reader.inputs[1 if reader.inputs[0] is value else 0]
    return None if other is None else (reader, other)


@dataclass(frozen=True)
class AddedBias:
    """The constant that is added to a product, and the node that adds it."""

    value: ir.Value
    add: ir.Node


def added_bias(node: ir.Node) -> AddedBias | None:
    """Return the constant that is added to each row of a product, if nothing but its Add reads that."""
    add = sole_reader(node.outputs[0])
    if add is None or not is_standard(add, "Add", "Sum") or len(add.inputs) != 2:
        return None
    value = add.inputs[1] if add.inputs[0] is node.outputs[0] else add.inputs[0]
    array, width = constant_of(value), node.outputs[0].shape
    if value is None or array is None or array.ndim != 1 or width is None or array.shape[0] != width[-1]:
        return None
    return AddedBias(value, add)
