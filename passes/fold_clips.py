"""Let QuantizeLinear do the clipping: it saturates where its grid ends.

Before: ``c = Min(x, 6); q = QuantizeLinear(c)`` with a grid that ends at 6. After: ``q =
QuantizeLinear(x)``: the same integers, bit for bit. Relu, Clip, Min and Max with constant bounds alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxq.analysis.clips import CLIPPING, Bound, clip_bounds
from onnxq.analysis.quantized import Quantized, read_quantize
from onnxq.ir.module import GraphModule, is_standard, sole_reader
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.quant.encodings import Encoding


@dataclass(frozen=True)
class FoldClips(Pass):
    """Remove each clip before a QuantizeLinear per tensor that nobody else reads; run it after insert-qdq."""

    name: ClassVar[str] = "fold-clips"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Look at a quantization again as long as a clip stands before it."""
        for node in module.graph:
            if is_standard(node, "QuantizeLinear"):
                while _absorbs(node, ctx):
                    pass


def _absorbs(quantize: ir.Node, ctx: PassContext) -> bool:
    """Remove the clip before ``quantize`` if it changes no integer, and tell whether it did."""
    found, clipped = read_quantize(quantize), quantize.inputs[0]
    encoding = _integer_grid(found)
    clip = None if clipped is None or sole_reader(clipped) is None else clipped.producer()
    if encoding is None or clip is None or not is_standard(clip, *CLIPPING):
        return False
    bounds = clip_bounds(clip)
    if bounds is None:
        ctx.skip(clip, "its bounds are computed at run time, or spread its input")
        return False
    if not _saturates(encoding, *bounds):
        ctx.skip(clip, "it clips within the grid")
        return False
    why = "QuantizeLinear saturates there anyway"
    ctx.edit.rewire(quantize, 0, clip.inputs[0], why=why)
    ctx.edit.remove(clip, why=why)
    return True


def _integer_grid(found: Quantized | None) -> Encoding | None:
    """Return the grid if it is known, one for the whole tensor, and one of integers."""
    encoding = None if found is None else found.encoding
    return encoding if encoding is not None and encoding.integers and encoding.axis is None else None


def _saturates(encoding: Encoding, low: Bound, high: Bound) -> bool:
    """Tell whether everything beyond the bounds has the integer of the bounds, computed as at run time."""
    least, most = encoding.limits
    with np.errstate(over="ignore"):
        ends = [None if end is None else encoding.quantize(end.astype(np.float32)) for end in (low, high)]
    return all(
        end is None or bool((end == limit).all()) for end, limit in zip(ends, (least, most), strict=True)
    )
