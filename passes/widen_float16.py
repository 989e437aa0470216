"""Let a half-precision model compute in float32, as CPUs have no half-precision kernels.

Before: ``main (float16 x) => (float16 y) {y = MatMul(x, w)}``. After: the input is cast to float, the graph
computes in float32, and the output is cast back; inputs and outputs keep their types.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxq.ir.module import GraphModule
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.rewrite.casting import cast, drop_empty_cast, has_subgraph
from onnxq.rewrite.shielding import shield_cast

HALF, FLOAT = ir.DataType.FLOAT16, ir.DataType.FLOAT
WHY = "the CPU computes in float32"
TYPES = ("dtype", "output_datatype", "output_dtype", "to")
"""Attributes that name the type of what an operator computes."""


@dataclass(frozen=True)
class WidenFloat16(Pass):
    """Widen every float16 constant, cast and value of the main graph."""

    name: ClassVar[str] = "widen-float16"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Weights are widened exactly; sums are rounded less than before."""
        if not any(value.dtype == HALF for value in module.values()):
            return
        with_subgraph = next((node for node in module.graph if has_subgraph(node)), None)
        if with_subgraph is not None:
            ctx.skip(with_subgraph, "its subgraph may read half-precision values of the main graph")
            return
        computed = [value for value in module.graph.outputs if value.dtype == HALF and value.producer()]
        for node in module.graph:
            _widen_node(node, ctx)
        for value in list(module.graph.initializers.values()):
            _widen_constant(value, ctx)
        given = [_cast_input(value, ctx) for value in module.graph.inputs if value.dtype == HALF]
        for value in computed:
            _cast_output(value, ctx)
        for node in list(module.graph):
            drop_empty_cast(node, FLOAT, ctx.edit, why=WHY)
        for wide in given:
            shield_cast(wide, ctx.edit)


def _widen_node(node: ir.Node, ctx: PassContext) -> None:
    """Let the node compute float32, also where an attribute of it names the type."""
    for name, attr in node.attributes.items():
        if name in TYPES and attr.value == HALF:
            ctx.edit.set_attribute(node, name, int(FLOAT), why=WHY)
        if attr.type == ir.AttributeType.TENSOR and attr.as_tensor().dtype == HALF:
            ctx.edit.set_attribute(
                node, name, ir.tensor(attr.as_tensor().numpy().astype(np.float32)), why=WHY
            )
    for value in node.outputs:
        if value.dtype == HALF:
            ctx.edit.set_dtype(value, FLOAT, why=WHY)


def _widen_constant(value: ir.Value, ctx: PassContext) -> None:
    if value.dtype == HALF and value.const_value is not None:
        wide = value.const_value.numpy().astype(np.float32)
        constant = ctx.edit.constant(f"{value.name}_f32", wide, why=WHY)
        ctx.edit.reroute(value, constant, readers=value.consumers(), why=WHY)


def _cast_input(value: ir.Value, ctx: PassContext) -> ir.Value:
    readers = list(value.consumers())
    wide = cast(value, FLOAT, "f32", ctx.edit, why=WHY)
    ctx.edit.reroute(value, wide, readers=readers, why=WHY)
    return wide


def _cast_output(value: ir.Value, ctx: PassContext) -> None:
    ctx.edit.reroute(value, cast(value, HALF, "f16", ctx.edit, why=WHY), readers=[None], why=WHY)
