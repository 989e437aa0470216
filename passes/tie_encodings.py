"""Let an operator that only moves or selects values keep the encoding of its input, so that nothing rescales.

Before: ``encode x``; ``y = MaxPool(x)``. After: ``encode x, y`` with the same scale and zero point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnxq.ir.layers import keeps_grid
from onnxq.ir.module import GraphModule, name_of
from onnxq.passmanager.base import Effect, Pass, PassContext


@dataclass(frozen=True)
class TieEncodings(Pass):
    """Copy a per-tensor encoding across each such operator whose output is encoded too."""

    name: ClassVar[str] = "tie-encodings"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Walk in graph order, so that a chain of such operators is tied in one go."""
        for node in module.graph:
            if not keeps_grid(node):
                continue
            before = module.decisions.get(name_of(node.inputs[0]))
            after = module.decisions.get(name_of(node.outputs[0]))
            if before is None or after is None or before.readers is not None:
                continue
            if before.encoding.axis is not None:
                ctx.skip(node, "the encoding is per channel and the operator may move the channel")
                continue
            ctx.edit.encode(node.outputs[0], before.encoding, why=f"tied across {node.op_type}")
