"""Realise every decision as QuantizeLinear and DequantizeLinear.

Activation, before: ``y = MatMul(x, w)``, ``encode x``. After: ``x_q = QuantizeLinear(x); x_dq =
DequantizeLinear(x_q); y = MatMul(x_dq, w)``. Weight: the initializer becomes integers behind a
DequantizeLinear. Embedding table: the integers are gathered, then dequantized, so that only the rows in use
become float; a table in blocks through onnxruntime's GatherBlockQuantized. What ONNX Runtime would get wrong
between such pairs is read through a Sum: see ``onnxq.rewrite.shielding``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxq.ir.knowledge import Decision
from onnxq.ir.module import GraphModule, constant_tensor
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.rewrite.qdq.forms import form_of
from onnxq.rewrite.shielding import shield_bodies, shield_channels, shield_layers, shield_narrow_weights


@dataclass(frozen=True)
class InsertQdq(Pass):
    """Insert the pairs in the order of the graph; no decision is left."""

    name: ClassVar[str] = "insert-qdq"
    effect: ClassVar[Effect] = Effect.QUANTIZING
    realises: ClassVar[bool] = True

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Constants are quantized here and now, everything else at run time."""
        for value in list(module.graph.initializers.values()):
            _realise(value, ctx)
        for value in list(module.values()):
            _realise(value, ctx)
        shield_layers(module, ctx.edit)
        shield_channels(module, ctx.edit)
        shield_narrow_weights(module, ctx.edit)
        shield_bodies(module, ctx.edit)


def _realise(value: ir.Value, ctx: PassContext) -> None:
    for decision in ctx.edit.realise(value):
        if constant_tensor(value) is not None:
            form_of(decision.encoding).constant(value, decision.encoding, decision.readers, ctx.edit)
        elif decision.uses or value.is_graph_output():
            _realise_activation(decision, ctx)


def _realise_activation(decision: Decision, ctx: PassContext) -> None:
    value, encoding = decision.value, decision.encoding
    restored = form_of(encoding).activation(value, encoding, ctx.edit)
    shown = [None] if decision.for_all and value.producer() else []
    readers = [*shown, *decision.readers]
    ctx.edit.reroute(value, restored, readers=readers, why=f"encoded as {encoding.dtype}")
