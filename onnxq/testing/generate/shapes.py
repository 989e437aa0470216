"""Blocks that move, cut, join, pool and resize."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxq.testing.generate.builder import Builder, Shape, Tensor
from onnxq.testing.generate.draws import once_in, pick


def transpose(b: Builder, x: Tensor) -> Tensor:
    """Transpose, now and then without its attribute."""
    order = list(range(x.rank))[::-1]
    if b.draws.below(3) and x.rank > 1:
        order = [*range(x.rank - 2), x.rank - 1, x.rank - 2]
        return b.add("Transpose", x, shape=tuple(x.shape[axis] for axis in order), perm=order)
    return b.add("Transpose", x, shape=tuple(x.shape[axis] for axis in order))


def reshape(b: Builder, x: Tensor) -> Tensor:
    """Reshape by numbers, 0 and -1, constant or computed from Shape."""
    rest = int(np.prod(x.shape[1:]))
    form = b.draws.below(5) if x.rank > 1 else 4
    if form == 0:
        return b.add("Reshape", x, b.ints(0, -1), shape=(x.shape[0], rest))
    if form == 1:
        return b.add("Flatten", x, shape=(x.shape[0], rest))
    if form == 2:
        return b.add("Reshape", x, b.ints(x.shape[0], 1, rest), shape=(x.shape[0], 1, rest))
    if form == 3:
        shape = b.add("Shape", x, shape=(x.rank,), dtype=7)
        first = b.add("Gather", shape, b.ints(0), shape=(1,), axis=0)
        wanted = b.add("Concat", first, b.ints(-1), shape=(2,), axis=0)
        return b.add("Reshape", x, wanted, shape=(x.shape[0], rest))
    return b.add("Reshape", x, b.ints(-1), shape=(int(np.prod(x.shape)),))


def unsqueeze(b: Builder, x: Tensor) -> Tensor:
    """Unsqueeze, and at times Squeeze again."""
    axis = b.draws.below(x.rank + 1)
    shape = (*x.shape[:axis], 1, *x.shape[axis:])
    y = _with_axes(b, "Unsqueeze", x, axis, shape)
    return _with_axes(b, "Squeeze", y, axis, x.shape) if once_in(b.draws, 3) else y


def squeeze(b: Builder, x: Tensor) -> Tensor:
    """Squeeze the first axis of size one; reshapes where there is none."""
    if 1 not in x.shape:
        return unsqueeze(b, x)
    axis = x.shape.index(1)
    return _with_axes(b, "Squeeze", x, axis, (*x.shape[:axis], *x.shape[axis + 1 :]))


def _with_axes(b: Builder, op_type: str, x: Tensor, axis: int, shape: Shape) -> Tensor:
    if b.opset >= 13:
        return b.add(op_type, x, b.ints(axis), shape=shape)
    return b.add(op_type, x, shape=shape, axes=[axis])


def slice_(b: Builder, x: Tensor) -> Tensor:
    """Slice one axis: from its end, backwards, in steps, or down to nothing."""
    axis = b.draws.below(x.rank)
    size = x.shape[axis]
    start, end, step = pick(
        b.draws, ((0, size, 1), (0, -1, 1), (1, size, 1), (0, 1 << 62, 2), (-1, -(1 << 62), -1))
    )
    if once_in(b.draws, 25):
        start, end = size, size
    left = len(range(*slice(start, None if step < 0 else end, step).indices(size)))
    parts = [b.ints(start), b.ints(end), b.ints(axis), *([b.ints(step)] if step != 1 else [])]
    return b.add("Slice", x, *parts, shape=(*x.shape[:axis], left, *x.shape[axis + 1 :]))


def split(b: Builder, x: Tensor) -> Tensor:
    """Split an axis in two, and join or add the parts."""
    axis = b.draws.below(x.rank)
    half = x.shape[axis] // 2
    if half == 0:
        return x
    sizes = [half, x.shape[axis] - half]
    parts = [Tensor(b.name("part"), (*x.shape[:axis], size, *x.shape[axis + 1 :]), x.dtype) for size in sizes]
    if b.opset >= 13:
        b.node("Split", [x, b.ints(*sizes)], parts, axis=axis)
    else:
        b.node("Split", [x], parts, axis=axis, split=sizes)
    if sizes[0] == sizes[1] and b.draws.below(2):
        return b.add("Mul", parts[0], b.add("Sigmoid", parts[1]))
    return b.add("Concat", parts[1], parts[0], shape=x.shape, axis=axis)


def concat(b: Builder, x: Tensor) -> Tensor:
    """Join with itself, another value, a constant, or a constant without elements."""
    axis = b.draws.below(x.rank)
    others = [t for t in b.tensors if t.shape == x.shape and t.dtype == x.dtype] or [x]
    form = b.draws.below(4)
    if form == 3:
        empty = (*x.shape[:axis], 0 if once_in(b.draws, 2) else 1, *x.shape[axis + 1 :])
        other = b.floats(b.numbers.normal(size=empty))
    else:
        other = pick(b.draws, others)
    size = x.shape[axis] + other.shape[axis]
    return b.add("Concat", x, other, shape=(*x.shape[:axis], size, *x.shape[axis + 1 :]), axis=axis)


def pad(b: Builder, x: Tensor) -> Tensor:
    """Pad with a constant, the edge or a reflection."""
    mode = pick(b.draws, ("constant", "constant", "edge", "reflect"))
    last = x.rank - 1
    low, high = pick(b.draws, ((1, 1), (0, 1), (1, 0)))
    if x.shape[last] < 2:
        mode = "constant"
    pads = [0] * last + [low] + [0] * last + [high]
    value = [b.floats(pick(b.draws, (0.0, 1.5)))] if mode == "constant" and b.draws.below(2) else []
    shape = (*x.shape[:-1], x.shape[-1] + low + high)
    return b.add("Pad", x, b.ints(*pads), *value, shape=shape, mode=mode)


def gather(b: Builder, x: Tensor) -> Tensor:
    """Gather some places of an axis, by constant indices or by fed ones."""
    axis = b.draws.below(x.rank)
    if x.shape[axis] == 0:
        return x
    indices = b.ids((2,), x.shape[axis]) if once_in(b.draws, 3) else b.ints(0, x.shape[axis] - 1)
    return b.add("Gather", x, indices, shape=(*x.shape[:axis], 2, *x.shape[axis + 1 :]), axis=axis)


def pick_first(b: Builder, x: Tensor) -> Tensor:
    """Gather one place of an axis, which goes."""
    axis = min(1, x.rank - 1)
    index = b.value(np.array(0, np.int64))
    return b.add("Gather", x, index, shape=(*x.shape[:axis], *x.shape[axis + 1 :]), axis=axis)


def reduce(b: Builder, x: Tensor) -> Tensor:
    """Reduce one axis, the spatial ones, or all."""
    op_type = pick(b.draws, ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"))
    axes = pick(b.draws, ([x.rank - 1], list(range(2, x.rank)) or [0], list(range(x.rank)), [-1]))
    keep = b.draws.below(2)
    gone = {axis % x.rank for axis in axes}
    shape = tuple(1 if i in gone else size for i, size in enumerate(x.shape) if keep or i not in gone)
    since = 13 if op_type == "ReduceSum" else 18
    if b.opset >= since:
        return b.add(op_type, x, b.ints(*axes), shape=shape, keepdims=keep)
    return b.add(op_type, x, shape=shape, axes=axes, keepdims=keep)


def expand(b: Builder, x: Tensor) -> Tensor:
    """Repeat along a new first axis or the last, by Expand or Tile."""
    if b.draws.below(2):
        shape = (2, *x.shape)
        return b.add("Expand", x, b.ints(*shape), shape=shape)
    shape = (*x.shape[:-1], x.shape[-1] * 2)
    return b.add("Tile", x, b.ints(*[1] * (x.rank - 1), 2), shape=shape)


def pool(b: Builder, x: Tensor) -> Tensor:
    """Pool by maximum or mean, over windows or everything."""
    spatial = x.shape[2:]
    if once_in(b.draws, 3):
        ones = (1,) * len(spatial)
        op_type = pick(b.draws, ("GlobalAveragePool", "GlobalMaxPool"))
        return b.add(op_type, x, shape=(*x.shape[:2], *ones))
    kernel = [min(2, size) for size in spatial]
    attributes: dict[str, Any] = {"kernel_shape": kernel}
    stride = pick(b.draws, (1, 2))
    if stride > 1:
        attributes["strides"] = [stride] * len(spatial)
    op_type = pick(b.draws, ("MaxPool", "AveragePool"))
    padded = list(spatial)
    if once_in(b.draws, 3) and min(kernel) > 1:
        attributes["pads"] = [1] * (2 * len(spatial))
        padded = [size + 2 for size in spatial]
        if op_type == "AveragePool":
            attributes["count_include_pad"] = b.draws.below(2)
    sizes = [(size - k) // stride + 1 for size, k in zip(padded, kernel, strict=True)]
    return b.add(op_type, x, shape=(*x.shape[:2], *sizes), **attributes)


def resize(b: Builder, x: Tensor) -> Tensor:
    """Resize the last axes, by factors or to sizes."""
    spatial = len(x.shape) - 2
    mode = pick(b.draws, ("nearest", "linear", *(("cubic",) if spatial == 2 else ())))
    if mode == "linear" and spatial == 3 and b.opset < 13:
        mode = "nearest"
    attributes: dict[str, Any] = {"mode": mode}
    if mode == "nearest":
        attributes["coordinate_transformation_mode"] = pick(b.draws, ("asymmetric", "half_pixel"))
        attributes["nearest_mode"] = pick(b.draws, ("floor", "round_prefer_floor"))
    elif b.draws.below(2):
        attributes["coordinate_transformation_mode"] = pick(
            b.draws, ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel")
        )
    sizes = tuple(size * 2 for size in x.shape[2:])
    roi = None if b.opset >= 13 else b.floats(np.zeros(0))
    if b.draws.below(2):
        given = [roi, None, b.ints(*x.shape[:2], *sizes)]
        if b.opset < 13:
            given[1] = b.value(np.zeros(0, np.float32))
    else:
        given = [roi, b.value(np.array([1.0, 1.0, *[2.0] * spatial], np.float32))]
    return b.add("Resize", x, *given, shape=(*x.shape[:2], *sizes), **attributes)


def depth_to_space(b: Builder, x: Tensor) -> Tensor:
    """Move channels into space, where four of them are to be had; else space into channels."""
    batch, channels, height, width = x.shape
    if channels % 4 == 0:
        mode = pick(b.draws, ("DCR", "CRD"))
        shape = (batch, channels // 4, height * 2, width * 2)
        return b.add("DepthToSpace", x, shape=shape, blocksize=2, mode=mode)
    if height % 2 or width % 2:
        return x
    return b.add("SpaceToDepth", x, shape=(batch, channels * 4, height // 2, width // 2), blocksize=2)
