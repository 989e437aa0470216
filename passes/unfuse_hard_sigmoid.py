"""Write HardSigmoid and HardSwish with operators that run in integers, their factors where convolutions are.

Before: ``g = Conv(x, w, b); y = HardSigmoid(g)``. After: ``y = Clip(Add(Mul(g, alpha), beta), 0, 1)``; the
convolution can take both numbers in, and a grid from 0 to 1 clips by itself.

Before: ``y = HardSwish(x)``, or ``y = Mul(x, HardSigmoid(x))``. After: ``y = Mul(Mul(x, Clip(Add(x, beta /
alpha), 0, 1 / alpha)), alpha)``: the convolutions behind can take the last factor in. ``fold-scalars`` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxq.ir.module import GraphModule, attribute, is_float, is_standard, sole_reader
from onnxq.passmanager.base import Effect, Pass, PassContext

WHY = "these operators run in integers"
SIXTH, HALF = 1 / 6, 0.5


@dataclass(frozen=True)
class UnfuseHardSigmoid(Pass):
    """Run it in front of ``fold-scalars``."""

    name: ClassVar[str] = "unfuse-hard-sigmoid"
    effect: ClassVar[Effect] = Effect.EXACT
    optional: ClassVar[bool] = True

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave alone what neither comes from a convolution that nothing else reads, nor gates a product."""
        for node in list(module.graph):
            value = node.inputs[0] if is_standard(node, "HardSigmoid", "HardSwish") else None
            if value is None or not is_float(value):
                continue
            alpha, beta = float(attribute(node, "alpha", 0.2)), float(attribute(node, "beta", 0.5))
            if is_standard(node, "HardSwish"):
                _replace(node, _product(node, value, value, SIXTH, HALF, ctx), ctx)
            elif alpha <= 0:
                ctx.skip(node, "it falls, or is constant")
            elif _is_own_convolution(value):
                _replace(node, _clipped(node, value, alpha, beta, ctx), ctx)
            elif (product := _gated(node)) is not None:
                gated = product.inputs[product.inputs[0] is node.outputs[0]]
                _replace(product, _product(product, gated, value, alpha, beta, ctx), ctx)
                ctx.edit.remove(node, why=WHY)
            else:
                ctx.skip(node, "it neither follows a convolution of its own nor gates a product")


def _is_own_convolution(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and is_standard(producer, "Conv") and sole_reader(value) is not None


def _gated(node: ir.Node) -> ir.Node | None:
    """Return the product that alone reads the node's output, if it reads it once."""
    reader = sole_reader(node.outputs[0])
    if reader is None or not is_standard(reader, "Mul") or reader.inputs[0] is reader.inputs[1]:
        return None
    return reader


def _clipped(node: ir.Node, value: ir.Value, alpha: float, beta: float, ctx: PassContext) -> ir.Value:
    op, name = ctx.edit.at(node, why=WHY), node.outputs[0].name
    scaled = op.Mul(value, np.float32(alpha), name=f"{name}_scaled")
    moved = op.Add(scaled, np.float32(beta), name=f"{name}_moved")
    return op.Clip(moved, np.float32(0), np.float32(1), name=f"{name}_clipped")


def _product(
    node: ir.Node, gated: ir.Value | None, value: ir.Value, alpha: float, beta: float, ctx: PassContext
) -> ir.Value:
    op, name = ctx.edit.at(node, why=WHY), node.outputs[0].name
    moved = op.Add(value, np.float32(beta / alpha), name=f"{name}_moved")
    gate = op.Clip(moved, np.float32(0), np.float32(1 / alpha), name=f"{name}_gate")
    return op.Mul(op.Mul(gated, gate, name=f"{name}_gated"), np.float32(alpha), name=f"{name}_scaled")


def _replace(node: ir.Node, result: ir.Value, ctx: PassContext) -> None:
    ctx.edit.replace(node.outputs[0], result, why=WHY)
    ctx.edit.remove(node, why=WHY)
