"""Gradients held to finite differences, for rules of other distributions too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from onnxq.autodiff.model import gradient_model
from onnxq.ir.module import GraphModule
from onnxq.testing.running import Array, Feeds, run_model

Doubles = NDArray[np.float64]

STEP = 2.0**-10
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
        module: A model without kinks within 0.01 of the feeds.
        feeds: Inputs, in float32.
        wrt: The names of inputs.
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
        assert gradient.shape == feeds[name].shape, f"{name}: shape {gradient.shape}"
        for _ in range(directions):
            direction = np.asarray(rng.normal(size=gradient.shape))
            slope, bound = exact.slope(feeds, name, direction, weights)
            rounding = TERMS * np.finfo(np.float32).eps * np.abs(gradient * direction).sum()
            error = abs(float((gradient * direction).sum()) - slope)
            assert error <= bound + rounding, f"{name}: {error} off {slope}, bound {bound} + {rounding}"


class _Exact:
    """One output of a model, in float64."""

    def __init__(self, module: GraphModule, of: str) -> None:
        proto = ir.to_proto(module.model)
        for node in proto.graph.node:
            _widen(node)
        self._evaluator = ReferenceEvaluator(proto)
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
            self({**feeds, name: np.asarray(feeds[name] + sign * step * direction)}) * weights
            for sign in (1, -1)
        ]
        return float((sides[0] - sides[1]).sum()) / (2 * step), float(np.abs(sides).sum())


def _widen(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == onnx.TensorProto.FLOAT:
            attribute.i = onnx.TensorProto.DOUBLE
