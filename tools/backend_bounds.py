"""How far the outputs of a compiled model may lie from those of its reference, and the comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from backend_reference import Reference, Values, run_alone
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxq.ir.knowledge import NamedDecision
from onnxq.ir.module import LINEAR
from onnxq.quant.encodings import Encoding

Floats = NDArray[np.floating[Any]]

ROUNDING = 64
"""How many units in the last place of the largest magnitude two orders of summation may be apart."""

KERNEL_STEPS = {"Softmax": 1}
"""Operators whose integer kernel rounds more than once, and by how many steps of the output: QLinearSoftmax
adds and divides exponentials that it has rounded to integers."""


class OutOfBoundsError(Exception):
    """A result that the bound does not allow."""


def encoding_bound(values: Any, encoding: Encoding | None, steps: float = 0) -> Any:
    """Return how far a value may lie from ``values`` once its own encoding has rounded it.

    Args:
        values: What was computed, not rounded yet.
        encoding: How everyone reads the value, if that was decided.
        steps: How many steps of the encoding are allowed besides.

    """
    if encoding is None:
        return 0.0
    return encoding.error_bound(np.asarray(values, np.float32)) + steps * encoding.scale


def linear_bound(model: onnx.ModelProto, feeds: Mapping[str, Any], reference: Reference) -> Any:
    """Bound how far the one linear operator of ``model`` moves if its inputs move as they were rounded.

    ``w'x' - wx = (w' - w)x + w'(x' - x)``, and the operator's value is at most its value on magnitudes.
    None if a pass has made it another operator.
    """
    original = model.graph.node[0]
    node = next(node for node in reference.model.graph.node if node.op_type in LINEAR)
    if node.op_type != original.op_type:
        return None
    given = {**feeds, **weights(model)}
    before = [given[name].astype(np.float32) for name in original.input if name]
    after = [np.asarray(reference.read(name, node), np.float32) for name in node.input if name]
    moved = [np.abs(one - other) for one, other in zip(before, after, strict=True)]
    magnitudes = _on_magnitudes(node)

    def apply(x: Floats, w: Floats) -> Floats:
        found: Floats = run_alone(magnitudes, {"x": x, "w": w}, reference.model)[node.output[0]]
        return found

    bound = apply(np.abs(before[0]), moved[1]) + apply(moved[0], np.abs(after[1]))
    return bound + _bias_bound(node, moved[2], bound.ndim) if len(moved) > 2 else bound


def _on_magnitudes(node: onnx.NodeProto) -> onnx.NodeProto:
    """Return the operator without its bias and the signs of its factors, reading ``x`` and ``w``."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.ClearField("input")
    copy.input.extend(["x", "w"])
    for attribute in copy.attribute:
        if attribute.type == onnx.AttributeProto.FLOAT:
            attribute.f = abs(attribute.f)
    return copy


def _bias_bound(node: onnx.NodeProto, moved: Floats, rank: int) -> Floats:
    """Shape the bias's movement like the output: behind the channel axis of a Conv come the spatial ones."""
    if node.op_type == "Gemm":
        beta = next((attribute.f for attribute in node.attribute if attribute.name == "beta"), 1.0)
        return abs(beta) * moved
    return moved.reshape(-1, *[1] * (rank - 2))


def check_ranges(given: Mapping[str, Any], decisions: Sequence[NamedDecision]) -> None:
    """Hold every encoded input and weight to one step of its encoding: its range has to cover it.

    Raises:
        OutOfBoundsError: One was cut off.

    """
    for name, encoding in {one.value: one.encoding for one in decisions if one.value in given}.items():
        array = np.asarray(given[name], np.float32)
        moved = np.abs(encoding.dequantize(encoding.quantize(array)) - array)
        if (moved > 2 * encoding.error_bound(np.zeros_like(array)) + rounding(array)).any():
            raise OutOfBoundsError(f"input {name!r} was cut off: its encoding is too narrow")


def weights(model: onnx.ModelProto) -> Values:
    """Return the initializers."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def rounding(values: Any) -> float:
    """Return what float rounding may amount to in a tensor of these values."""
    finite = np.abs(values[np.isfinite(values)].astype(np.float64))
    return float(ROUNDING * ml_dtypes.finfo(values.dtype).eps * finite.max(initial=0))


def same_shapes(found: Values, wanted: Values) -> None:
    """Compare shapes and types of all values in ``found``.

    Raises:
        OutOfBoundsError: They differ.

    """
    for name in found:
        one, other = _arrays(found[name]), _arrays(wanted[name])
        if [(a.dtype, a.shape) for a in one] != [(b.dtype, b.shape) for b in other]:
            raise OutOfBoundsError(f"output {name!r} has another shape or type")


def compare(found: Values, wanted: Values, bounds: Mapping[str, Any]) -> None:
    """Hold each value to its bound, which is 0 where a name is missing; anything but floats has to be equal.

    Raises:
        OutOfBoundsError: A difference is too large.

    """
    same_shapes(found, wanted)
    for name in found:
        for one, other in zip(_arrays(found[name]), _arrays(wanted[name]), strict=True):
            share = _share(one, other, bounds.get(name, 0.0))
            if share > 1:
                raise OutOfBoundsError(f"output {name!r} is off by {share:.3g} times its bound")


def _arrays(value: Any) -> list[Any]:
    """Return the arrays of a tensor, of a sequence, or of an absent optional value."""
    if isinstance(value, list):
        return [array for item in value for array in _arrays(item)]
    return [] if value is None else [np.asarray(value)]


def is_float(array: Any) -> bool:
    """Tell whether the array holds floats, those of ml_dtypes included."""
    return array.dtype.kind == "f" or "float" in array.dtype.name


def _share(found: Any, wanted: Any, bound: Any) -> float:
    """Return the largest difference as a share of bound and rounding; only floats may have a small one.

    Where NaN or infinity was to be encoded, which no grid holds, anything goes.
    """
    if not is_float(found):
        return float(np.inf if (found != wanted).any() else 0)
    allowed = np.broadcast_to(np.asarray(bound, np.float64) + rounding(wanted), wanted.shape)
    found, wanted = found.astype(np.float64), wanted.astype(np.float64)
    differs = (found != wanted) & ~(np.isnan(found) & np.isnan(wanted)) & np.isfinite(allowed)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.abs(found - wanted)[differs] / allowed[differs]
    return float(np.nan_to_num(shares, nan=np.inf).max(initial=0))
