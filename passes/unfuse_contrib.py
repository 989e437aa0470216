"""Write ONNX Runtime's own operators as standard ones, which it fuses again when it opens the file.

Before: ``y = com.microsoft.FusedMatMul<transB=1>(x, table)``. After: ``y = MatMul(x, Transpose(table))``. So
do the Attention, the normalizations and the Gelu that ``onnxruntime.transformers`` has written: their weights
are layers and tables like any other then, and types are known behind them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, DeduplicateInitializersPass

from onnxq.ir.inference import infer_outputs, infer_types
from onnxq.ir.module import GraphModule
from onnxq.ir.schema import CONTRIB
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.passmanager.fusing import raise_for
from onnxq.rewrite.contrib import UNFUSED, CannotUnfuseError

FIRST_OPSET = 17
"""The operator set that brought LayerNormalization."""
SMALL = 16
"""Elements of the constants that masks are made of."""
WHY = "in standard operators, as any other layer"


@dataclass(frozen=True)
class UnfuseContrib(Pass):
    """Write out each operator of ``onnxq.rewrite.contrib``."""

    name: ClassVar[str] = "unfuse-contrib"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave a node alone that does more than the standard operators can say."""
        if not raise_for(_fused(module), FIRST_OPSET, module, ctx, why="brings LayerNormalization"):
            return
        if _fused(module):
            ctx.edit.apply(infer_types, why="masks are known by their axes")
            self._write_out_all(module, ctx)
            ctx.edit.apply(_share, why="layers have one mask")

    def _write_out_all(self, module: GraphModule, ctx: PassContext) -> None:
        """Go in the order of the graph, so that types become known behind what is written out."""
        for node in list(module.graph):
            if node.domain != CONTRIB or node.op_type not in UNFUSED:
                infer_outputs(node, module.model)
                continue
            try:
                _write_out(node, ctx)
            except CannotUnfuseError as reason:
                ctx.skip(node, str(reason))


def _share(model: ir.Model) -> ir.Model:
    """Compute once what several nodes compute alike; small constants are one to begin with."""
    for step in (DeduplicateInitializersPass(size_limit=SMALL), CommonSubexpressionEliminationPass()):
        model = step(model).model
    return model


def _fused(module: GraphModule) -> list[ir.Node]:
    return [node for node in module.graph if node.domain == CONTRIB and node.op_type in UNFUSED]


def _write_out(node: ir.Node, ctx: PassContext) -> None:
    made = UNFUSED[node.op_type](node, ctx.edit.at(node, why=WHY))
    read = [value.is_graph_output() or bool(value.uses()) for value in node.outputs]
    results = [*made, *[None] * (len(node.outputs) - len(made))]
    if any(asked and new is None for asked, new in zip(read, results, strict=False)):
        raise CannotUnfuseError("one of its outputs is none that standard operators give")
    for old, new, asked in zip(node.outputs, results, read, strict=False):
        if new is not None and asked:
            ctx.edit.replace(old, new, why=WHY)
    ctx.edit.remove(node, why=WHY)
