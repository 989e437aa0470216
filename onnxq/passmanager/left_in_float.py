"""Which weights of a compiled model are still floats, how many bytes they take, and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxq.analysis.weights import MULTIPLIED
from onnxq.ir.knowledge import origin_of
from onnxq.ir.module import GraphModule, constant_tensor, is_standard
from onnxq.passmanager.base import PassRecord

OTHERS = ("Einsum", "Gather")
"""What reads weights besides the products that ``analysis/weights.py`` lists."""
FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})
STORED = frozenset(
    {
        *(ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT4, ir.DataType.UINT4),
        *(ir.DataType.INT2, ir.DataType.UINT2, ir.DataType.FLOAT8E4M3FN),
    }
)
"""Types that weights are stored in; floats beside them are scales."""


@dataclass(frozen=True)
class LeftInFloat:
    """Weights that nodes of one operator read as floats, for one reason.

    Args:
        operator: The operator, with its domain if that is another than the standard one.
        nodes: How many nodes.
        bytes: What their weights take, each counted once.
        reason: Why they are floats.

    """

    operator: str
    nodes: int
    bytes: int
    reason: str


def left_in_float(module: GraphModule, records: Sequence[PassRecord]) -> tuple[LeftInFloat, ...]:
    """Return what is left in float, the most bytes first.

    A weight is a constant that is longer than one along two axes, so that biases and scales of a channel are
    none.
    """
    reasons = {remark.node: remark.reason for record in records for remark in record.remarks}
    groups: dict[tuple[str, str], dict[ir.Value, ir.Node]] = defaultdict(dict)
    for value, node in _float_weights(module):
        groups[_called(node), _reason(node, module, reasons)].setdefault(value, node)
    found = (
        LeftInFloat(operator, len(set(read.values())), sum(map(_bytes, read)), reason)
        for (operator, reason), read in groups.items()
    )
    return tuple(sorted(found, key=lambda one: (-one.bytes, one.operator, one.reason)))


def _float_weights(module: GraphModule) -> Iterator[tuple[ir.Value, ir.Node]]:
    """Yield each weight in floats, of bodies too, with the first node that reads it."""
    seen: set[ir.Value] = set()
    for node in ir.traversal.RecursiveGraphIterator(module.graph):
        constants = [value for value in node.inputs if constant_tensor(value) is not None]
        if any(value.dtype in STORED for value in constants if value is not None):
            continue
        for value in constants:
            if value is not None and value not in seen and value.dtype in FLOATS and _is_weight(value):
                seen.add(value)
                yield value, _behind_sum(node)


def _behind_sum(node: ir.Node) -> ir.Node:
    """Return who reads what a Sum of one value hands on: it shields a layer from ONNX Runtime's rewriting."""
    alone = is_standard(node, "Sum") and len(node.inputs) == 1
    return next(iter(node.outputs[0].consumers()), node) if alone else node


def _is_weight(value: ir.Value) -> bool:
    tensor = constant_tensor(value)
    return tensor is not None and sum(length > 1 for length in tensor.shape.numpy()) > 1


def _bytes(value: ir.Value) -> int:
    tensor = constant_tensor(value)
    return 0 if tensor is None else tensor.nbytes


def _called(node: ir.Node) -> str:
    return node.op_type if is_standard(node) else f"{node.domain}.{node.op_type}"


def _reason(node: ir.Node, module: GraphModule, reasons: Mapping[str, str]) -> str:
    """Return what a pass said of the node, by the name that it or its forerunner had, or what it is."""
    for name in (node.name or "", origin_of(node)):
        if name in reasons:
            return reasons[name]
    if node.graph is not module.graph:
        return "it stands in the body of another operator, where no pass of the recipe quantizes"
    if not is_standard(node):
        return "it is no standard operator"
    if not is_standard(node, *MULTIPLIED, *OTHERS):
        return f"{node.op_type} is no product of matrices, and computes in floats"
    return f"no pass of the recipe quantizes weights of {node.op_type}"
