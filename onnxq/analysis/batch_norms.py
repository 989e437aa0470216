"""What follows for the channels of a graph from the statistics that its BatchNormalizations state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxq.ir.module import attribute, constant_of, input_of, is_float, is_standard, rank_of
from onnxq.quant.normal import Array, Expected, Function, expected_of, joined

CHANNELS = 1
"""The axis that a BatchNormalization's channels lie along."""

KEPT = ("Dropout", "GlobalAveragePool", "Identity")
"""Operators behind which a channel has the same mean and lies in the same range."""


@dataclass(frozen=True, eq=False)
class Normal:
    """The mean and the standard deviation of each channel, two arrays of shape (C,)."""

    mean: Array
    deviation: Array

    def through(self, function: Function, reach: float) -> Expected:
        """Return what ``function`` makes of such values, at most ``reach`` deviations from the mean."""
        return expected_of(function, self.mean, self.deviation, reach)


Known = Mapping[ir.Value | None, Expected]


def normal_of(norm: ir.Node) -> Normal | str:
    """Return what a BatchNormalization's output is like, or why that is not known."""
    gamma, beta = constant_of(input_of(norm, 1)), constant_of(input_of(norm, 2))
    if gamma is None or beta is None or attribute(norm, "training_mode", 0) or len(norm.outputs) > 1:
        return "its statistics are not constant"
    if not is_float(norm.outputs[0]):
        return "it does not compute in float32"
    return Normal(beta.astype(np.float64), np.abs(gamma.astype(np.float64)))


def following(
    node: ir.Node, normal: Mapping[ir.Value | None, Normal], expected: Known, reach: float
) -> Expected | None:
    """Return what is expected of what ``node`` makes of what it reads, if that is known."""
    source, function = input_of(node, 0), _function(node)
    if function is not None:
        return normal[source].through(function, reach) if source in normal else None
    if is_standard(node, *KEPT):
        return expected.get(source)
    parts = [expected[value] for value in node.inputs if value in expected]
    if len(parts) != len(node.inputs):
        return None
    if is_standard(node, "Concat") and _joins_channels(node):
        return joined(parts)
    alike = (
        len({(rank_of(value), part.mean.size) for value, part in zip(node.inputs, parts, strict=True)}) == 1
    )
    return parts[0] + parts[1] if is_standard(node, "Add") and alike else None


def _joins_channels(concat: ir.Node) -> bool:
    axis, rank = attribute(concat, "axis", None), rank_of(concat.outputs[0])
    return bool(axis == CHANNELS or (axis is not None and rank is not None and axis % rank == CHANNELS))


def _function(node: ir.Node) -> Function | None:
    """Return the function of each element that ``node`` applies to what it reads first."""
    make = _FUNCTIONS.get(node.op_type) if is_standard(node, node.op_type) else None
    return None if make is None else make(node)


def same(x: Array) -> Array:
    """Return what was given: a BatchNormalization's own output."""
    return x


def _clip(node: ir.Node) -> Function | None:
    """Return what a Clip with constant bounds does; before operator set 11, they are attributes."""
    low, high = (
        attribute(node, name, None) if input_of(node, index) is None else constant_of(input_of(node, index))
        for index, name in ((1, "min"), (2, "max"))
    )
    given = [value for value in node.inputs[1:] if value is not None]
    if any(constant_of(value) is None for value in given):
        return None
    return lambda x: np.clip(x, -np.inf if low is None else low, np.inf if high is None else high)


def _leaky(node: ir.Node) -> Function:
    slope = attribute(node, "alpha", 0.01)
    return lambda x: np.where(x < 0, slope * x, x)


def _hard_sigmoid(node: ir.Node) -> Function:
    slope, offset = attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5)
    return lambda x: np.clip(slope * x + offset, 0, 1)


_FUNCTIONS: dict[str, Callable[[ir.Node], Function | None]] = {
    "Clip": _clip,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda _: lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "LeakyRelu": _leaky,
    "Relu": lambda _: lambda x: np.maximum(x, 0),
    "Sigmoid": lambda _: lambda x: 1 / (1 + np.exp(-x)),
    "Tanh": lambda _: np.tanh,
}
