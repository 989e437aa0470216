"""The values around normalizations, which keep outliers in the same channels."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from onnxq.analysis.endpoints import NORMS
from onnxq.ir.module import GraphModule, constant_of, is_float, is_standard, rank_of

SUMS = ("Add", "Sum")


def around_norms(module: GraphModule) -> Iterator[ir.Value]:
    """Yield the values whose last axis is normalized: before, after, and summed before, without bias too."""
    found: dict[ir.Value, None] = {}
    for node in module.graph:
        if not (is_standard(node, *NORMS) and NORMS[node.op_type] == -1) or node.inputs[0] is None:
            continue
        producer = node.inputs[0].producer()
        summed = producer.inputs if producer is not None and is_standard(producer, *SUMS) else ()
        around = [value for value in (*summed, node.inputs[0], node.outputs[0]) if value]
        found |= dict.fromkeys([*around, *filter(None, map(_before_bias, around))])
    for value in found:
        length = value.shape[-1] if value.shape else None
        computed = is_float(value) and constant_of(value) is None and not value.is_initializer()
        if computed and (rank_of(value) or 0) > 1 and isinstance(length, int) and length > 1:
            yield value


def _before_bias(value: ir.Value) -> ir.Value | None:
    """Return what ``value`` is but for a constant that was added, which leaves outliers where they are."""
    producer = value.producer()
    if producer is None or not is_standard(producer, *SUMS):
        return None
    computed = [term for term in producer.inputs if constant_of(term) is None]
    return computed[0] if len(computed) == 1 < len(producer.inputs) else None
