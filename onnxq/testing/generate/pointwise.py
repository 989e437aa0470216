"""Blocks of operators that work element by element, each in several of its forms."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from onnxq.testing.generate.builder import Builder, Tensor
from onnxq.testing.generate.draws import once_in, pick

SMOOTH = ("Sigmoid", "Tanh", "LeakyRelu", "Elu", "HardSigmoid", "Softplus", "Selu", "Abs", "Neg", "Erf")


def relu(b: Builder, x: Tensor) -> Tensor:
    """Relu."""
    return b.add("Relu", x)


def activation(b: Builder, x: Tensor) -> Tensor:
    """Return one of the activations that need nothing besides."""
    return b.add(pick(b.draws, SMOOTH), x)


def clip(b: Builder, x: Tensor) -> Tensor:
    """Clip with both bounds, or one, or none."""
    low, high = pick(b.draws, ((0.0, 6.0), (-1.0, 1.0), (0.0, None), (None, 1.0), (None, None), (0.5, 0.5)))
    bounds = [None if bound is None else b.floats(bound) for bound in (low, high)]
    while bounds and bounds[-1] is None:
        bounds.pop()
    return b.add("Clip", x, *bounds)


def hard_swish(b: Builder, x: Tensor) -> Tensor:
    """HardSwish as one operator or written out."""
    form = b.draws.below(3)
    if b.opset >= 14 and form == 0:
        return b.add("HardSwish", x)
    if form == 1:
        return b.add("Mul", x, b.add("HardSigmoid", x, alpha=1 / 6, beta=0.5))
    clipped = b.add("Clip", b.add("Add", x, b.floats(3.0)), b.floats(0.0), b.floats(6.0))
    return b.add("Div", b.add("Mul", x, clipped), b.floats(6.0))


def gelu(b: Builder, x: Tensor) -> Tensor:
    """Gelu as one operator, by erf, or by tanh."""
    form = b.draws.below(3)
    if b.opset >= 20 and form == 0:
        attributes: dict[str, Any] = {"approximate": "tanh"} if b.draws.below(2) else {}
        return b.add("Gelu", x, **attributes)
    if form == 1:
        cube = b.add("Mul", b.add("Pow", x, b.floats(3.0)), b.floats(0.044715))
        inner = b.add("Mul", b.add("Add", x, cube), b.floats(np.sqrt(2 / np.pi)))
        factor = b.add("Add", b.add("Tanh", inner), b.floats(1.0))
        return b.add("Mul", b.add("Mul", x, b.floats(0.5)), factor)
    divided = b.add("Div", x, b.floats(np.sqrt(2)))
    factor = b.add("Add", b.add("Erf", divided), b.floats(1.0))
    if b.draws.below(2):
        return b.add("Mul", b.add("Mul", x, factor), b.floats(0.5))
    return b.add("Mul", x, b.add("Mul", factor, b.floats(0.5)))


def silu(b: Builder, x: Tensor) -> Tensor:
    """``x * sigmoid(x)``."""
    return b.add("Mul", x, b.add("Sigmoid", x))


def prelu(b: Builder, x: Tensor) -> Tensor:
    """PRelu with a slope for each channel."""
    channels = (x.shape[1], *(1,) * (x.rank - 2))
    return b.add("PRelu", x, b.floats(b.numbers.uniform(-0.5, 0.5, channels), "slope"))


def softmax(b: Builder, x: Tensor) -> Tensor:
    """Softmax or LogSoftmax over one axis; over all from it before operator set 13."""
    attributes: dict[str, Any] = {} if once_in(b.draws, 3) else {"axis": pick(b.draws, (-1, x.rank - 1, 0))}
    return b.add(pick(b.draws, ("Softmax", "Softmax", "LogSoftmax")), x, **attributes)


def with_constant(b: Builder, x: Tensor) -> Tensor:
    """Add, subtract or multiply a constant: of one number, of channels, of the last axis, or of all."""
    op_type = pick(b.draws, ("Add", "Mul", "Sub", "Div"))
    shape = pick(b.draws, ((x.shape[-1],), (), (1,), (1,) * x.rank, x.shape))
    size = pick(b.draws, (1.0, 0.1, 30.0, 1e-4)) if op_type != "Div" else 1.0
    numbers = b.numbers.normal(size=shape) * size if op_type != "Div" else b.numbers.uniform(0.5, 2, shape)
    operands = [x, b.floats(numbers)]
    swapped = once_in(b.draws, 5) and op_type != "Div"
    return b.add(op_type, *(reversed(operands) if swapped else operands), shape=x.shape)


def with_another(b: Builder, x: Tensor) -> Tensor:
    """Combine with another value of the same shape; with itself if there is none."""
    same = [t for t in b.tensors if t.shape == x.shape and t.dtype == x.dtype]
    other = pick(b.draws, same) if same else x
    return b.add(pick(b.draws, ("Add", "Mul", "Sub", "Max", "Min", "Sum", "Mean")), x, other)


def where(b: Builder, x: Tensor) -> Tensor:
    """Choose between the value and another by a condition that is fed or constant."""
    mask = b.condition(x.shape) if b.draws.below(2) else b.value(b.numbers.random(x.shape) < 0.5, "mask")
    other = b.floats(pick(b.draws, (0.0, -1e4, 1.0)))
    return b.add(
        "Where", mask, *((x, other) if b.draws.below(2) else (other, x)), shape=x.shape, dtype=x.dtype
    )


def identity(b: Builder, x: Tensor) -> Tensor:
    """Identity or Dropout, which does nothing at inference."""
    return b.add(pick(b.draws, ("Identity", "Dropout")), x)


def cast_and_back(b: Builder, x: Tensor) -> Tensor:
    """Cast to another float type, compute there, and cast back."""
    other = pick(
        b.draws, [t for t in (TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.FLOAT) if t != x.dtype]
    )
    wide = b.add("Cast", x, dtype=other, to=other)
    wide = b.add(pick(b.draws, ("Tanh", "Relu", "Neg")), wide) if b.draws.below(2) else wide
    return b.add("Cast", wide, dtype=x.dtype, to=x.dtype)


def root(b: Builder, x: Tensor) -> Tensor:
    """Return the square root of a value made positive."""
    return b.add("Sqrt", b.add("Add", b.add("Mul", x, x), b.floats(1.0)))
