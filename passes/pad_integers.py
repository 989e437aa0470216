"""Put what is padded around integers: ONNX Runtime has no rule for a Pad between quantized values.

Before: ``x = DequantizeLinear(x_q, s, z); p = Pad(x, around); p_q = QuantizeLinear(p, s, z)``. After: ``p_q =
Pad(x_q, around, z)``, the same integers: zero is ``z``, and every other element passes both ways unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxq.analysis.layers import keeps_grid
from onnxq.analysis.quantized import Quantized, dequantized, read_quantize
from onnxq.ir.module import GraphModule, attribute, is_standard, sole_reader
from onnxq.passmanager.base import Effect, Pass, PassContext

WHY = "its grid stays"


@dataclass(frozen=True)
class PadIntegers(Pass):
    """Rewrite each Pad of zeros, or of its own elements, between two equal grids; run it after insert-qdq."""

    name: ClassVar[str] = "pad-integers"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave alone what somebody reads as floats too."""
        for node in list(module.graph):
            after = read_quantize(node)
            padded = None if after is None else node.inputs[0]
            pad = None if padded is None or sole_reader(padded) is None else padded.producer()
            if after is None or pad is None or not is_standard(pad, "Pad") or not keeps_grid(pad):
                continue
            before = dequantized(pad.inputs[0])
            if before is not None and _is_one_grid(before, after):
                _pad(pad, before, after, ctx)


def _is_one_grid(before: Quantized, after: Quantized) -> bool:
    """Tell whether both have the same encoding, one for the whole tensor, of integers with a zero point."""
    first, second = before.encoding, after.encoding
    if first is None or second is None or first.axis is not None or after.zero_point is None:
        return False
    return first.integers and first == second


def _pad(pad: ir.Node, before: Quantized, after: Quantized, ctx: PassContext) -> None:
    op, mode = ctx.edit.at(after.node, why=WHY), attribute(pad, "mode", "constant")
    inputs = [before.stored, pad.inputs[1], after.zero_point if mode == "constant" else None, *pad.inputs[3:]]
    ctx.edit.replace(
        after.node.outputs[0], op.Pad(*inputs, mode=mode, name=f"{pad.outputs[0].name}_padded"), why=WHY
    )
    ctx.edit.remove(after.node, why=WHY)
    ctx.edit.remove(pad, why=WHY)
