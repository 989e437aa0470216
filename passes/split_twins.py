"""Multiply the two parts of a twin-encoded value one by one, so that both products are of integers.

Before: ``y = MatMul(Add(fine, coarse), v)``, both parts behind a DequantizeLinear. After: ``y =
Add(MatMul(fine, v), MatMul(coarse, v))``. That costs a second product. A sum would be multiplied in float,
and only say what integers would give.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxq.analysis.twins import Parts, twin_parts
from onnxq.ir.module import GraphModule, is_standard, name_of
from onnxq.passmanager.base import Effect, Pass, PassContext

WHY = "a product of integers for each part"


@dataclass(frozen=True)
class SplitTwins(Pass):
    """Split each MatMul that reads a twin-encoded value; run it behind insert-qdq."""

    name: ClassVar[str] = "split-twins"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Products are linear in each of their factors."""
        for node in list(module.graph):
            found = [twin_parts(value) for value in node.inputs] if is_standard(node, "MatMul") else []
            for index, parts in enumerate(found):
                if parts is not None:
                    _split(node, index, parts, ctx)
                    break


def _split(product: ir.Node, index: int, parts: Parts, ctx: PassContext) -> None:
    whole, op = product.outputs[0], ctx.edit.at(product, why=WHY)
    products = [
        op.MatMul(*(part if at == index else value for at, value in enumerate(product.inputs)), name=name)
        for part, name in (
            (parts.fine, f"{name_of(whole)}_fine"),
            (parts.coarse, f"{name_of(whole)}_coarse"),
        )
    ]
    total = op.Add(*products, name=f"{name_of(whole)}_sum", like=whole)
    ctx.edit.replace(whole, total, why=WHY)
    ctx.edit.remove(product, why=WHY)
