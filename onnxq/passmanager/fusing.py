"""What passes share that write several operators as one."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxq.errors import ModelError
from onnxq.ir.module import GraphModule, constant_of, is_standard, sole_reader
from onnxq.passmanager.base import PassContext
from onnxq.passmanager.raising import move_to_opset


def raise_for(
    nodes: Sequence[ir.Node], version: int, module: GraphModule, ctx: PassContext, *, why: str
) -> bool:
    """Raise the operator set to what fusing ``nodes`` wants, and tell whether it is there.

    Where it cannot be raised, ``nodes`` are noted as left alone. Raising makes new nodes and values.
    """
    if module.opset >= version or not nodes:
        return True
    try:
        move_to_opset(module, version, ctx, why=why)
    except ModelError as error:
        for node in nodes:
            ctx.skip(node, error.message)
        return False
    return True


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
