"""Small questions about what stands beside a value."""

from __future__ import annotations

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
