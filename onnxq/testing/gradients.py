"""Gradients held to finite differences, for rules of other distributions too."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from onnxq.autodiff.model import gradient_model
from onnxq.ir.module import GraphModule
from onnxq.testing.running import Array, Feeds, run_model

Doubles = NDArray[np.float64]

STEP = 2.0**-20
"""Far less than what lies between the candidates of a maximum, or an input and a kink."""
TERMS = 64
"""So many roundings of float32 may lie between the inputs of a gradient and each of its elements."""


def assert_gradient(
    module: GraphModule,
    feeds: Feeds,
    wrt: Sequence[str],
    *,
    of: str = "y",
    directions: int = 3,
    seed: int = 0,
) -> None:
    """Assert that the gradient that ONNX Runtime computes is that of the graph in float64.

    Along random directions, the gradient is held to the difference quotient of onnx's reference evaluator.
    What may lie between them is derived: twice the step shows the error of the quotient, and float32 rounds.

    Args:
        module: A model without kinks near the feeds.
        feeds: Inputs, in float32.
        wrt: The names of inputs or initializers.
        of: The name of the output.
        directions: How many directions for each of ``wrt``.
        seed: Draws the directions, and the weights of the output's elements.

    """
    rng = np.random.default_rng(seed)
    exact = _Exact(module, of)
    weights = rng.normal(size=exact(feeds).shape).astype(np.float32)
    model = gradient_model(module, of=of, wrt=wrt, seeded=True)
    found = run_model(model, {**feeds, "seed": weights})
    for name in wrt:
        gradient = found[f"{name}_grad"].astype(np.float64)
        assert gradient.shape == exact.value(feeds, name).shape, f"{name}: shape {gradient.shape}"
        for _ in range(directions):
            direction = np.asarray(rng.normal(size=gradient.shape))
            slope, bound = exact.slope(feeds, name, direction, weights)
            rounding = TERMS * np.finfo(np.float32).eps * np.abs(gradient * direction).sum()
            error = abs(float((gradient * direction).sum()) - slope)
            assert error <= bound + rounding, f"{name}: {error} off {slope}, bound {bound} + {rounding}"


class Erf(OpRun):
    """The error function in float64; what the reference has computes in float32, as the next two do."""

    op_domain = ""

    def _run(self, x: Array) -> tuple[Array]:
        return (_erf(x),)


def _erf(x: Array) -> Array:
    return np.asarray(np.vectorize(math.erf, otypes=[x.dtype])(x))


class Gelu(OpRun):
    """Both forms of it."""

    op_domain = ""

    def _run(self, x: Array, approximate: str = "none") -> tuple[Array]:
        if approximate == "tanh":
            bend: Array = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
        else:
            bend = _erf(x / math.sqrt(2))
        return (x / 2 * (1 + bend),)


class GroupNormalization(OpRun):
    """That of operator set 21, with a scale for each channel."""

    op_domain = ""

    def _run(
        self, x: Array, scale: Array, bias: Array, epsilon: float, num_groups: int, stash_type: int
    ) -> tuple[Array]:
        groups = x.reshape(len(x), num_groups, -1)
        centred = groups - groups.mean(2, keepdims=True)
        normal = (centred / np.sqrt((centred**2).mean(2, keepdims=True) + epsilon)).reshape(x.shape)
        wide = (-1, *[1] * (x.ndim - 2))
        return (normal * scale.reshape(wide) + bias.reshape(wide),)


class _Exact:
    """One output of a model, in float64."""

    def __init__(self, module: GraphModule, of: str) -> None:
        proto = ir.to_proto(module.model)
        for node in proto.graph.node:
            _widen(node)
        self._evaluator = ReferenceEvaluator(proto, new_ops=[Erf, Gelu, GroupNormalization])
        self._constants = {
            tensor.name: array.astype(np.float64)
            for tensor in proto.graph.initializer
            if (array := onnx.numpy_helper.to_array(tensor)).dtype == np.float32
        }
        self._of = of

    def __call__(self, feeds: Feeds) -> Array:
        wide = {
            key: value.astype(np.float64) if value.dtype == np.float32 else value
            for key, value in feeds.items()
        }
        (result,) = self._evaluator.run([self._of], {**self._constants, **wide})
        return np.asarray(result)

    def value(self, feeds: Feeds, name: str) -> Array:
        """Return what an input is fed, or an initializer is."""
        return feeds[name] if name in feeds else self._constants[name]

    def slope(self, feeds: Feeds, name: str, direction: Doubles, weights: Array) -> tuple[float, float]:
        """Return the difference quotient along a direction, and a bound of its error."""
        (one, size), (other, _) = (
            self._quotient(feeds, name, direction, weights, step) for step in (STEP, 2 * STEP)
        )
        return one, abs(other - one) + size * TERMS * np.finfo(np.float64).eps / STEP

    def _quotient(
        self, feeds: Feeds, name: str, direction: Doubles, weights: Array, step: float
    ) -> tuple[float, float]:
        """Return the quotient, and the size of what was added up for it."""
        sides = [
            self({**feeds, name: np.asarray(self.value(feeds, name) + sign * step * direction)}) * weights
            for sign in (1, -1)
        ]
        return float((sides[0] - sides[1]).sum()) / (2 * step), float(np.abs(sides).sum())


def _widen(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == onnx.TensorProto.FLOAT:
            attribute.i = onnx.TensorProto.DOUBLE
