"""How many rows products with weights in blocks have: what decides whether such weights are fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import onnx_ir as ir

from onnxq.ir.module import GraphModule, attribute, name_of
from onnxq.ir.schema import CONTRIB, FLOAT8_PRODUCT


def sizes_of(module: GraphModule, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Return the lengths that the names of axes stand for, when inputs of these shapes are fed."""
    return {
        str(size): length
        for value in module.graph.inputs
        for size, length in zip(value.shape or (), shapes.get(name_of(value), ()), strict=False)
        if not isinstance(size, int)
    }


def most_rows(module: GraphModule, sizes: Mapping[str, int]) -> dict[str, int]:
    """Return, by what weights are stored in, the most rows of a product that are known.

    Args:
        module: The model.
        sizes: What names of axes stand for; a product with others has unknown rows.

    Returns:
        Keys are ``4 bits``, ``8 bits`` and ``float8``.

    """
    found: dict[str, int] = {}
    for node in module.graph:
        kind, rows = _kind_of(node), _rows_of(node, sizes)
        if kind is not None and rows is not None:
            found[kind] = max(found.get(kind, 0), rows)
    return found


def _kind_of(node: ir.Node) -> str | None:
    if node.domain != CONTRIB:
        return None
    if node.op_type == FLOAT8_PRODUCT:
        return "float8"
    return f"{attribute(node, 'bits', 4)} bits" if node.op_type == "MatMulNBits" else None


def _rows_of(node: ir.Node, sizes: Mapping[str, int]) -> int | None:
    shape = node.inputs[0].shape if node.inputs and node.inputs[0] is not None else None
    leading = None if shape is None else [sizes.get(str(size), size) for size in shape[:-1]]
    if leading is None or not all(isinstance(size, int) for size in leading):
        return None
    return prod(int(size) for size in leading if isinstance(size, int))
