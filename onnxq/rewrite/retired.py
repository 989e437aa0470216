"""Operators that ONNX tried and gave up, said with those it has.

They have no schema in any operator set, but stand among the standard operators in the files of early
exporters, and ONNX Runtime still runs them, on float32.

Source: onnxruntime 1.32.0, in which the tests compare each of them before and after.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from onnxq.rewrite.opset_rules import CannotConvertError, Step

SINCE = 10
"""The first operator set that has what they are made of: broadcasting, and slices by inputs."""


def affine(step: Step) -> None:
    """``alpha * x + beta``."""
    _scale(step, "alpha", 1.0)
    _turn_into(step, "Add", step.constant("beta", np.array(step.take("beta", 0.0), np.float32)))


def image_scaler(step: Step) -> None:
    """``scale * x + bias``, with a bias for each channel of [N, C, H, W]."""
    bias = np.array(step.take("bias"), np.float32).reshape(-1, 1, 1)
    _scale(step, "scale", 1.0)
    _turn_into(step, "Add", step.constant("bias", bias))


def parametric_softplus(step: Step) -> None:
    """``alpha * ln(1 + exp(beta * x))``."""
    _scale(step, "beta")
    step.feed(0, step.insert("Softplus", step.node.inputs, "softplus"))
    _turn_into(step, "Mul", step.constant("alpha", np.array(step.take("alpha"), np.float32)))


def scaled_tanh(step: Step) -> None:
    """``alpha * tanh(beta * x)``."""
    _scale(step, "beta")
    step.feed(0, step.insert("Tanh", step.node.inputs, "tanh"))
    _turn_into(step, "Mul", step.constant("alpha", np.array(step.take("alpha"), np.float32)))


def crop(step: Step) -> None:
    """Cut a border of (left, top, right, bottom) off the pixels of [N, C, H, W]."""
    left, top, right, bottom = step.take("border")
    size = step.take("scale")
    if size is None and not (right and bottom):
        raise CannotConvertError("its border is 0 at the right or below")
    ends = [-bottom, -right] if size is None else [top + size[0], left + size[1]]
    parts = {"starts": [top, left], "ends": ends, "axes": [2, 3]}
    for index, (name, numbers) in enumerate(parts.items(), 1):
        step.feed(index, step.constant(name, np.array(numbers, np.int64)))
    step.node.op_type = "Slice"


def dynamic_slice(step: Step) -> None:
    """Slice, as it is since operator set 10."""
    step.node.op_type = "Slice"


def _scale(step: Step, attribute: str, default: float | None = None) -> None:
    """Let the node read its input times the attribute."""
    factor = step.constant(attribute, np.array(step.take(attribute, default), np.float32))
    step.feed(0, step.insert("Mul", [step.node.inputs[0], factor], "scaled"))


def _turn_into(step: Step, op_type: str, operand: ir.Value) -> None:
    step.feed(1, operand)
    step.node.op_type = op_type


RETIRED: Mapping[str, Callable[[Step], None]] = {
    "Affine": affine,
    "Crop": crop,
    "DynamicSlice": dynamic_slice,
    "ImageScaler": image_scaler,
    "ParametricSoftplus": parametric_softplus,
    "ScaledTanh": scaled_tanh,
}
