"""Blocks with linear layers and normalizations, in the forms that exporters write."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxq.testing.generate.builder import Builder, Tensor
from onnxq.testing.generate.draws import once_in, pick

MAX_ELEMENTS = 4096


def conv(b: Builder, x: Tensor) -> Tensor:
    """Conv of one, two or three spatial axes: plain, grouped or depthwise."""
    channels, spatial = x.shape[1], x.shape[2:]
    groups = pick(b.draws, [g for g in (1, channels, 2) if channels % g == 0])
    out = groups * pick(b.draws, (2, 1, 3)) if groups > 1 else pick(b.draws, (4, 1, 3, 6))
    kernel = [min(pick(b.draws, (1, 3, 2)), size) for size in spatial]
    stride = pick(b.draws, (1, 1, 2))
    attributes: dict[str, Any] = {"strides": [stride] * len(spatial)} if stride > 1 else {}
    pads = [min(pick(b.draws, (0, 1)), k - 1) for k in kernel] * 2
    if pads[0] != pads[-1] or any(pads) or once_in(b.draws, 3):
        attributes["pads"] = pads
    if groups > 1:
        attributes["group"] = groups
    if once_in(b.draws, 2):
        attributes["kernel_shape"] = kernel
    if once_in(b.draws, 8) and "pads" not in attributes:
        attributes["auto_pad"] = pick(b.draws, ("VALID", "SAME_UPPER", "SAME_LOWER"))
    sizes = _conv_sizes(spatial, kernel, stride, pads, attributes.get("auto_pad", "NOTSET"))
    weight = b.weight(
        out, channels // groups, *kernel, fan_in=channels // groups * int(np.prod(kernel)), channel=0
    )
    bias = [b.bias(out)] if b.draws.below(3) else []
    return b.add("Conv", x, weight, *bias, shape=(x.shape[0], out, *sizes), **attributes)


def _conv_sizes(
    spatial: tuple[int, ...], kernel: list[int], stride: int, pads: list[int], auto_pad: str
) -> list[int]:
    if auto_pad.startswith("SAME"):
        return [-(-size // stride) for size in spatial]
    padded = [s + pads[i] + pads[i + len(spatial)] for i, s in enumerate(spatial)]
    if auto_pad == "VALID":
        padded = list(spatial)
    return [(size - k) // stride + 1 for size, k in zip(padded, kernel, strict=True)]


def conv_transpose(b: Builder, x: Tensor) -> Tensor:
    """ConvTranspose, with strides and groups."""
    channels, spatial = x.shape[1], x.shape[2:]
    groups = pick(b.draws, [g for g in (1, channels) if channels % g == 0])
    out, stride = pick(b.draws, (2, 1, 3)), pick(b.draws, (1, 2))
    kernel = [pick(b.draws, (2, 1, 3)) for _ in spatial]
    sizes = [(size - 1) * stride + k for size, k in zip(spatial, kernel, strict=True)]
    weight = b.weight(channels, out, *kernel, fan_in=channels, channel=1)
    bias = [b.bias(out * groups)] if b.draws.below(2) else []
    attributes: dict[str, Any] = {"group": groups} if groups > 1 else {}
    return b.add(
        "ConvTranspose",
        x,
        weight,
        *bias,
        shape=(x.shape[0], out * groups, *sizes),
        strides=[stride] * len(spatial),
        **attributes,
    )


def matmul(b: Builder, x: Tensor) -> Tensor:
    """MatMul by a weight of two axes, often with a bias."""
    width, out = x.shape[-1], pick(b.draws, (4, 1, 3, 8))
    y = b.add("MatMul", x, b.weight(width, out, fan_in=width, channel=1), shape=(*x.shape[:-1], out))
    if b.draws.below(3) == 0:
        return y
    bias = b.bias(out)
    return b.add("Add", *((bias, y) if once_in(b.draws, 4) else (y, bias)), shape=y.shape)


def matmul_left(b: Builder, x: Tensor) -> Tensor:
    """MatMul with the weight on the left."""
    out, depth = pick(b.draws, (3, 1, 4)), x.shape[-2]
    shape = (*x.shape[:-2], out, x.shape[-1])
    return b.add("MatMul", b.weight(out, depth, fan_in=depth), x, shape=shape)


def matmul_vector(b: Builder, x: Tensor) -> Tensor:
    """MatMul by a weight of one axis: the last axis goes."""
    return b.add("MatMul", x, b.weight(x.shape[-1], fan_in=x.shape[-1]), shape=x.shape[:-1])


def matmul_stack(b: Builder, x: Tensor) -> Tensor:
    """MatMul by a stack of matrices, as heads and experts have it."""
    heads, width, out = x.shape[-3], x.shape[-1], pick(b.draws, (3, 1, 4))
    stack = heads if b.draws.below(3) else 1
    weight = b.weight(stack, width, out, fan_in=width, channel=2)
    return b.add("MatMul", x, weight, shape=(*x.shape[:-1], out))


def matmul_squares(b: Builder, x: Tensor) -> Tensor:
    """MatMul of an activation by its own transpose."""
    order = [*range(x.rank - 2), x.rank - 1, x.rank - 2]
    turned = b.add("Transpose", x, shape=tuple(x.shape[axis] for axis in order), perm=order)
    return b.add("MatMul", x, turned, shape=(*x.shape[:-1], x.shape[-2]))


def gemm(b: Builder, x: Tensor) -> Tensor:
    """Gemm with factors, transpositions, and C in one of its shapes."""
    attributes: dict[str, Any] = {}
    if once_in(b.draws, 3):
        attributes["alpha"] = pick(b.draws, (0.5, 2.0, -1.0, 0.0))
    if once_in(b.draws, 3):
        attributes["beta"] = pick(b.draws, (0.5, 2.0, -1.0, 0.0))
    rows, width, out = x.shape[0], x.shape[1], pick(b.draws, (4, 1, 3, 7))
    if once_in(b.draws, 5):
        attributes["transA"] = 1
        rows, width = width, rows
    turned = b.draws.below(2)
    if turned:
        attributes["transB"] = 1
    shape = (out, width) if turned else (width, out)
    weight = b.weight(*shape, fan_in=width, channel=1 - turned)
    c_shape = pick(b.draws, ((out,), None, (1, out), (1,), (), (rows, out), (rows, 1)))
    c = [] if c_shape is None else [b.floats(b.numbers.normal(size=c_shape), "b")]
    return b.add("Gemm", x, weight, *c, shape=(rows, out), **attributes)


def batch_norm(b: Builder, x: Tensor) -> Tensor:
    """BatchNormalization at inference, now and then with variances next to nothing."""
    channels = x.shape[1]
    scale = b.numbers.uniform(0.5, 1.5, channels) * pick(b.draws, (1.0, 1.0, -1.0, 1e-3))
    variance = b.numbers.uniform(0.5, 1.5, channels) * pick(b.draws, (1.0, 1.0, 1e-4, 100.0))
    mean, shift = b.numbers.normal(size=channels), b.numbers.normal(size=channels)
    parts = [b.floats(part, "bn") for part in (scale, shift, mean, variance)]
    attributes: dict[str, Any] = {"epsilon": pick(b.draws, (1e-3, 0.1))} if once_in(b.draws, 3) else {}
    return b.add("BatchNormalization", x, *parts, **attributes)


def conv_batch_norm(b: Builder, x: Tensor) -> Tensor:
    """Conv, BatchNormalization and an activation."""
    y = batch_norm(b, conv(b, x))
    if once_in(b.draws, 5):
        y = batch_norm(b, y)
    return b.add("Relu", y) if b.draws.below(2) else y


def layer_norm(b: Builder, x: Tensor) -> Tensor:
    """LayerNormalization, as one operator or written out."""
    width = x.shape[-1]
    scale = b.floats(b.numbers.uniform(0.5, 1.5, width), "gamma")
    shift = b.floats(b.numbers.normal(size=width), "beta")
    if b.opset >= 17 and b.draws.below(2):
        parts = [scale] if once_in(b.draws, 4) else [scale, shift]
        return b.add("LayerNormalization", x, *parts, axis=-1, epsilon=0.1)
    mean = _reduce_last(b, x)
    centred = b.add("Sub", x, mean)
    square = b.add("Pow", centred, b.floats(2.0)) if b.draws.below(2) else b.add("Mul", centred, centred)
    variance = b.add("Add", _reduce_last(b, square), b.floats(0.1))
    deviation = b.add("Sqrt", variance)
    return b.add("Add", b.add("Mul", b.add("Div", centred, deviation), scale), shift)


def rms_norm(b: Builder, x: Tensor) -> Tensor:
    """RMS normalization written out, or as one operator where the set has it."""
    scale = b.floats(b.numbers.uniform(0.5, 1.5, x.shape[-1]), "gamma")
    if b.opset >= 23 and b.draws.below(2):
        return b.add("RMSNormalization", x, scale, axis=-1, epsilon=0.1)
    square = b.add("Pow", x, b.floats(2.0))
    mean = b.add("Add", _reduce_last(b, square), b.floats(0.1))
    return b.add("Mul", b.add("Div", x, b.add("Sqrt", mean)), scale)


def _reduce_last(b: Builder, x: Tensor) -> Tensor:
    shape = (*x.shape[:-1], 1)
    if b.opset >= 18:
        return b.add("ReduceMean", x, b.ints(-1), shape=shape, keepdims=1)
    return b.add("ReduceMean", x, shape=shape, axes=[-1], keepdims=1)


def attention(b: Builder, x: Tensor) -> Tensor:
    """Self-attention of one or more heads, as exporters write it out, around a residual stream."""
    batch, tokens, width = x.shape
    heads = pick(b.draws, [h for h in (1, 2, 4) if width % h == 0])
    size = width // heads
    parts = []
    for _ in range(3):
        y = b.add("MatMul", x, b.weight(width, width, fan_in=width, channel=1))
        y = b.add("Add", y, b.bias(width)) if b.draws.below(2) else y
        split = b.add("Reshape", y, b.ints(0, 0, heads, size), shape=(batch, tokens, heads, size))
        parts.append(b.add("Transpose", split, shape=(batch, heads, tokens, size), perm=[0, 2, 1, 3]))
    query, key, value = parts
    turned = b.add("Transpose", key, shape=(batch, heads, size, tokens), perm=[0, 1, 3, 2])
    scores = b.add("MatMul", query, turned, shape=(batch, heads, tokens, tokens))
    divided = b.draws.below(2)
    factor = b.floats(np.sqrt(size) if divided else 1 / np.sqrt(size))
    scores = b.add("Div" if divided else "Mul", scores, factor)
    if once_in(b.draws, 3):
        mask = np.where(b.numbers.random((1, 1, tokens, tokens)) < 0.3, -1e4, 0.0)
        scores = b.add("Add", scores, b.floats(mask, "mask"))
    mixed = b.add("MatMul", b.add("Softmax", scores, axis=-1), value, shape=query.shape)
    joined = b.add("Transpose", mixed, shape=(batch, tokens, heads, size), perm=[0, 2, 1, 3])
    joined = b.add("Reshape", joined, b.ints(0, 0, width), shape=x.shape)
    out = b.add("MatMul", joined, b.weight(width, width, fan_in=width, channel=1))
    return b.add("Add", x, out) if b.draws.below(2) else out


def tied_table(b: Builder, x: Tensor) -> Tensor:
    """Rows of a table, added to ``x``; the table also makes logits, as language models tie it."""
    rows, width = 6, x.shape[-1]
    table = b.weight(rows, width, fan_in=width)
    found = b.add("Gather", table, b.ids(x.shape[:-1], rows), shape=x.shape, dtype=x.dtype)
    y = b.add("Add", x, found)
    if once_in(b.draws, 3):
        return y
    if y.rank == 2 and b.draws.below(2):
        return b.add("Gemm", y, table, shape=(y.shape[0], rows), transB=1)
    turned = b.add("Transpose", table, shape=(width, rows), perm=[1, 0])
    return b.add("MatMul", y, turned, shape=(*y.shape[:-1], rows))


def gated(b: Builder, x: Tensor) -> Tensor:
    """Two products whose results are multiplied, one of them through a sigmoid."""
    width = x.shape[-1]
    weight = b.weight(width, 4, fan_in=width, channel=1)
    one = b.add("MatMul", x, weight, shape=(*x.shape[:-1], 4))
    two = b.add("MatMul", x, b.weight(width, 4, fan_in=width, channel=1), shape=one.shape)
    return b.add("Mul", b.add("Sigmoid", one), two)


def squeeze_excite(b: Builder, x: Tensor) -> Tensor:
    """Channel gates from global means, by two convolutions of size one."""
    channels, ones = x.shape[1], (1,) * (x.rank - 2)
    mean = b.add("GlobalAveragePool", x, shape=(*x.shape[:2], *ones))
    small = b.add(
        "Conv",
        mean,
        b.weight(2, channels, *ones, fan_in=channels, channel=0),
        b.bias(2),
        shape=(x.shape[0], 2, *ones),
    )
    gate = b.add(
        "Conv",
        b.add("Relu", small),
        b.weight(channels, 2, *ones, fan_in=2, channel=0),
        b.bias(channels),
        shape=mean.shape,
    )
    return b.add("Mul", x, b.add("Sigmoid", gate))
