"""Let QuantizeLinear do the clipping: it saturates where its grid ends.

Before: ``c = Min(x, 6); q = QuantizeLinear(c)`` with a grid that ends at 6. After: ``q =
QuantizeLinear(x)``: the same integers, bit for bit. Relu, Clip, Min and Max with constant bounds alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.analysis.quantized import Quantized, read_quantize
from onnxq.ir.module import GraphModule, array_of, attribute, constant_of, input_of, is_standard, sole_reader
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.quant.encodings import Encoding

CLIPPING = ("Clip", "Max", "Min", "Relu")
Bound = NDArray[Any] | None
"""Where a clip ends; None where it does not."""


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
    bounds = _bounds(clip)
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


def _bounds(clip: ir.Node) -> tuple[Bound, Bound] | None:
    """Return the lower and the upper end; None where they are unknown or change the shape."""
    if clip.op_type == "Relu":
        return np.zeros(()), None
    given = clip.inputs[1:]
    known = all(value is None or constant_of(value) is not None for value in given)
    if not known or not all(_keeps_shape(clip.inputs[0], value) for value in given):
        return None
    if clip.op_type == "Clip":
        low, high = (constant_of(input_of(clip, index)) for index in (1, 2))
        return _end(clip, "min", low), _end(clip, "max", high)
    bounds = np.broadcast_arrays(*map(array_of, given))
    if not bounds:
        return None, None
    return (np.max(bounds, axis=0), None) if clip.op_type == "Max" else (None, np.min(bounds, axis=0))


def _end(clip: ir.Node, attribute_name: str, given: Bound) -> Bound:
    """Return one end of a Clip: its input, or the attribute that it was before operator set 11."""
    old = attribute(clip, attribute_name, None)
    return given if old is None else np.array(old)


def _keeps_shape(value: ir.Value | None, bound: ir.Value | None) -> bool:
    """Tell whether ``bound`` is one number, or one for each channel of ``value``."""
    array = constant_of(bound)
    if array is None or array.ndim == 0:
        return True
    return array.ndim == 1 and value is not None and value.shape is not None and value.shape[-1] == array.size
