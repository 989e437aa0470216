"""The reader of twin encodings: two pairs of QuantizeLinear and DequantizeLinear whose results are added."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from onnxq.analysis.clips import clip_bounds
from onnxq.analysis.quantized import dequantized, read_quantize
from onnxq.ir.module import is_standard
from onnxq.quant.encodings import Affine, Twin


class Parts(NamedTuple):
    """What a twin-encoded value is the sum of, and how it is encoded."""

    fine: ir.Value
    coarse: ir.Value
    encoding: Twin


def twin_parts(value: ir.Value | None) -> Parts | None:
    """Return the parts of what ``onnxq.rewrite.qdq.twins`` writes; None of any other value."""
    total = None if value is None else value.producer()
    if total is None or not is_standard(total, "Add"):
        return None
    fine, coarse = (_pair(part) for part in total.inputs)
    left = None if coarse is None else coarse.source.producer()
    if fine is None or coarse is None or left is None or not is_standard(left, "Sub"):
        return None
    if left.inputs != (fine.source, fine.restored):
        return None
    first, exponent = fine.grid, np.log2(coarse.grid.scale / fine.grid.scale)
    encoding = Twin(
        first.scale, first.zero_point, "twin8", exponent=int(np.rint(exponent)), levels=first.limits[1]
    )
    return Parts(fine.restored, coarse.restored, encoding)


class _Pair(NamedTuple):
    source: ir.Value
    restored: ir.Value
    grid: Affine


def _pair(value: ir.Value | None) -> _Pair | None:
    """Return a QuantizeLinear, the Clip in front of it and the DequantizeLinear behind it as one."""
    found = dequantized(value)
    made = None if found is None else read_quantize(found.stored.producer())
    clip = None if made is None or made.node.inputs[0] is None else made.node.inputs[0].producer()
    encoding = None if found is None else found.encoding
    if value is None or not isinstance(encoding, Affine) or clip is None or not is_standard(clip, "Clip"):
        return None
    bounds, source = clip_bounds(clip), clip.inputs[0]
    if bounds is None or bounds[1] is None or source is None:
        return None
    limit = int(np.rint(bounds[1] / encoding.scale) + encoding.zero_point)
    return _Pair(source, value, Affine(encoding.scale, encoding.zero_point, encoding.dtype, limit=limit))
