"""Let operators that only move, select or join values keep one encoding, so that nothing rescales.

Before: ``encode x``; ``y = MaxPool(x)``. After: ``encode x, y`` with the same scale and zero point.

A Concat works the other way round: ``encode a, b, y``; ``y = Concat(a, b)``. After: ``a`` and ``b`` have the
encoding of ``y``, which covers both, so that joining is copying. Each of them loses the finer steps that it
may have had, and the rounding to the common ones that would have followed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxq.analysis.layers import keeps_grid
from onnxq.ir.module import GraphModule, is_standard, name_of, sole_reader
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.quant.encodings import Encoding


@dataclass(frozen=True)
class TieEncodings(Pass):
    """Copy a per-tensor encoding across each such operator whose output is encoded too."""

    name: ClassVar[str] = "tie-encodings"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Walk in graph order, so that a chain of such operators is tied in one go; Concats first."""
        for node in reversed(module.graph):
            if is_standard(node, "Concat"):
                _tie_inputs(node, module, ctx)
        for node in module.graph:
            if not keeps_grid(node):
                continue
            before = module.encoding_of(node.inputs[0])
            after = [value for value in node.outputs if module.is_encoded(value)]
            if before is None or not after:
                continue
            if before.axis is not None:
                ctx.skip(node, "the encoding is per channel and the operator may move the channel")
                continue
            for value in after:
                ctx.edit.encode(value, before, why=f"tied across {node.op_type}")


def _tie_inputs(concat: ir.Node, module: GraphModule, ctx: PassContext) -> None:
    """Give what is joined the encoding of the whole, where nothing else reads it."""
    whole = _next_encoding(concat.outputs[0], module)
    if whole is None or whole.axis is not None:
        return
    for value in concat.inputs:
        if value is None or module.encoding_of(value) is None:
            continue
        if sole_reader(value) is not concat:
            ctx.skip(concat, f"{name_of(value)!r} keeps its encoding, as others read it")
            continue
        ctx.edit.encode(value, whole, why="tied across Concat")


def _next_encoding(value: ir.Value, module: GraphModule) -> Encoding | None:
    """Return the encoding of ``value``, or of what its only reader makes of it without leaving the grid."""
    while not module.is_encoded(value):
        reader = sole_reader(value)
        if reader is None or not keeps_grid(reader) or reader.inputs[0] is not value:
            return None
        if len(reader.outputs) > 1:
            return None
        value = reader.outputs[0]
    return module.decisions(value)[0].encoding
