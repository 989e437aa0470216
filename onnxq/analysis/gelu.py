"""Gelu as exporters write it, multiplied out in any order: polynomials of its input and of what bends it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.polynomial import Polynomial

from onnxq.analysis.patterns import scalar_of
from onnxq.ir.module import is_float, is_standard, rank_of, sole_reader

X = Polynomial([0, 1])

BEND = X**8
"""Stands for the Erf or Tanh: no term of x alone reaches this degree, so that both stay apart."""

GELU = 0.5 * X + 0.5 * X * BEND

ARGUMENTS = {
    "Erf": X / math.sqrt(2),
    "Tanh": math.sqrt(2 / math.pi) * (X + 0.044715 * X**3),
}

APPROXIMATE = {"Erf": "none", "Tanh": "tanh"}

CLOSE = 1e-6
"""Constants are the same up to the rounding of float32."""

DEEPEST, HIGHEST = 6, 4
"""How many operators may stand before the Erf or Tanh, and behind it."""


@dataclass(frozen=True)
class Gelu:
    """One Gelu, from its input to its output."""

    source: ir.Value
    output: ir.Value
    approximate: str


def gelu_of(node: ir.Node) -> Gelu | str:
    """Return the Gelu that bends in ``node``, or why there is none."""
    source = _source_of(node)
    if source is None:
        return "its input is not that of a Gelu"
    if not is_float(source) or rank_of(source) == 0:
        return "it bends no float32 tensor with axes"
    output = _output_of(node, source)
    if output is None:
        return "its output does not go into 0.5 * x * (1 + output) alone"
    return Gelu(source, output, APPROXIMATE[node.op_type])


def _source_of(node: ir.Node) -> ir.Value | None:
    """Return the value of which the node's input is the right polynomial."""
    for source in _before(node, DEEPEST):
        polynomial = _polynomial(node.inputs[0], {source: X}, DEEPEST)
        if polynomial is not None and _equal(polynomial, ARGUMENTS[node.op_type]):
            return source
    return None


def _output_of(node: ir.Node, source: ir.Value) -> ir.Value | None:
    """Return the value that is the Gelu of ``source``, behind the node."""
    known = {source: X, node.outputs[0]: BEND}
    value = node.outputs[0]
    for _ in range(HIGHEST):
        reader = sole_reader(value)
        if reader is None:
            return None
        value = reader.outputs[0]
        polynomial = _polynomial(value, known, HIGHEST)
        if polynomial is not None and _equal(polynomial, GELU):
            return value
    return None


def _before(node: ir.Node, depth: int) -> Iterator[ir.Value]:
    """Yield the values that sums and products turn into the node's inputs, nearest first."""
    layer = [value for value in node.inputs if value is not None and scalar_of(value) is None]
    yield from layer
    for value in layer:
        producer = value.producer()
        if depth > 1 and producer is not None and is_standard(producer, "Add", "Mul", "Div", "Pow"):
            yield from _before(producer, depth - 1)


def _polynomial(
    value: ir.Value | None, known: Mapping[ir.Value, Polynomial], depth: int
) -> Polynomial | None:
    """Return ``value`` as a polynomial of the known values, if it is one."""
    if value is not None and value in known:
        return known[value]
    number = scalar_of(value)
    if number is not None:
        return Polynomial([number])
    node = None if value is None else value.producer()
    if node is None or depth == 0 or not is_standard(node, "Add", "Mul", "Div", "Pow"):
        return None
    left, right = (_polynomial(operand, known, depth - 1) for operand in node.inputs)
    return None if left is None or right is None else _combined(node.op_type, left, right)


def _combined(op_type: str, left: Polynomial, right: Polynomial) -> Polynomial | None:
    if op_type == "Add":
        return left + right
    if op_type == "Mul":
        return left * right
    number = float(right.coef[0])
    if right.degree() > 0 or number == 0:
        return None
    if op_type == "Div":
        return left / number
    return left ** int(number) if number in (2, 3) else None


def _equal(left: Polynomial, right: Polynomial) -> bool:
    left, right = left.trim(), right.trim()
    return left.degree() == right.degree() and np.allclose(left.coef, right.coef, rtol=CLOSE, atol=0)
