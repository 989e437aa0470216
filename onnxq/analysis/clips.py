"""What operators that clip cut off: Relu, Clip, Max and Min."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.ir.module import array_of, attribute, constant_of, input_of

CLIPPING = ("Clip", "Max", "Min", "Relu")

Bound = NDArray[Any] | None
"""Where a clip ends; None where it does not."""


def clip_bounds(clip: ir.Node) -> tuple[Bound, Bound] | None:
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
