"""Take facts from BatchNormalizations, where there is no data to measure them on.

The output of a BatchNormalization has the mean ``beta`` and the standard deviation ``|gamma|`` in each
channel, on what the model was trained with. Taken as normal, it tells mean and range of each channel, there
and behind functions of each element, averages over an image, sums and joins. Passes that ask for no more,
such as ``correct-bias{method=assumed}``, then need no data.

The graph stays as it is. Run it in front of ``fold-batch-norm``.

Source: Nagel et al., 2019, arXiv:1906.04721, sections 4.1.3 and 4.2, with the integral over the density in
the place of a closed form for each function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxq.ir.module import GraphModule, attribute, constant_of, input_of, is_float, is_standard, rank_of
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.quant.normal import Array, Expected, Function, expected_of, joined

CHANNELS = 1
"""The axis that a BatchNormalization's channels lie along."""

KEPT = ("Dropout", "GlobalAveragePool", "Identity")
"""Operators behind which a channel has the same mean and lies in the same range."""


@dataclass(frozen=True)
class AssumeBatchNorms(Pass):
    """Note mean and range of each channel, as far as they follow from BatchNormalizations.

    Options:
        reach: How many standard deviations values lie from the mean at most.

    """

    name: ClassVar[str] = "assume-batch-norms"
    effect: ClassVar[Effect] = Effect.EXACT
    reach: float = 6.0

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Follow the channels from node to node, in the order of the graph."""
        normal: dict[ir.Value | None, _Normal] = {}
        expected: dict[ir.Value | None, Expected] = {}
        for node in module.graph:
            if is_standard(node, "BatchNormalization"):
                found = _normal(node)
                if isinstance(found, str):
                    ctx.skip(node, found)
                    continue
                normal[node.outputs[0]] = found
                known: Expected | None = found.through(_same, self.reach)
            else:
                known = _following(node, normal, expected, self.reach)
            if known is not None:
                expected[node.outputs[0]] = known
                _assume(node, known, ctx)


def _assume(node: ir.Node, known: Expected, ctx: PassContext) -> None:
    rank = rank_of(node.outputs[0])
    if rank is None:
        ctx.skip(node, "how many axes its output has is not known")
        return
    why = "it follows from the statistics of a BatchNormalization"
    ctx.edit.assume(node.outputs[0], known.facts(CHANNELS - rank), why=why)


@dataclass(frozen=True, eq=False)
class _Normal:
    """The mean and the standard deviation of each channel, two arrays of shape (C,)."""

    mean: Array
    deviation: Array

    def through(self, function: Function, reach: float) -> Expected:
        return expected_of(function, self.mean, self.deviation, reach)


Known = Mapping[ir.Value | None, Expected]


def _normal(norm: ir.Node) -> _Normal | str:
    """Return what a BatchNormalization's output is like, or why that is not known."""
    gamma, beta = constant_of(input_of(norm, 1)), constant_of(input_of(norm, 2))
    if gamma is None or beta is None or attribute(norm, "training_mode", 0) or len(norm.outputs) > 1:
        return "its statistics are not constant"
    if not is_float(norm.outputs[0]):
        return "it does not compute in float32"
    return _Normal(beta.astype(np.float64), np.abs(gamma.astype(np.float64)))


def _following(
    node: ir.Node, normal: Mapping[ir.Value | None, _Normal], expected: Known, reach: float
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


def _same(x: Array) -> Array:
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
