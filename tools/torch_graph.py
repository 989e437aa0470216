"""An ONNX graph run by PyTorch, operator by operator, in float64 or float32: an oracle for gradients.

Nothing here is of onnxq's rules: each operator is said with PyTorch's own, and autograd does the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import torch
from torch.nn import functional as nn

Attributes = Mapping[str, Any]
Tensor = torch.Tensor


def run(
    model: onnx.ModelProto,
    feeds: Mapping[str, Tensor],
    watch: Sequence[str] = (),
    held: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Tensor]:
    """Return all values of the main graph by name.

    Args:
        model: Its floats are computed in PyTorch's default type.
        feeds: Inputs, and initializers that are to be others; tensors of floats may ask for gradients.
        watch: Inner values whose gradients shall be kept.
        held: Inner values that shall be these numbers, with the gradients of what was computed.

    """
    held = held or {}
    values = {tensor.name: _tensor(tensor) for tensor in model.graph.initializer} | dict(feeds)
    for node in model.graph.node:
        attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        inputs = [values[name] if name else None for name in node.input]
        found = OPERATORS[node.op_type](attributes | {"outputs": len(node.output)}, *inputs)
        found = found if isinstance(found, tuple | list) else (found,)
        for name, value in zip(node.output, found, strict=False):
            values[name] = value = value + (wide(held[name]) - value).detach() if name in held else value
            if name in watch:
                value.retain_grad()
    return values


def gradients(
    model: onnx.ModelProto,
    feeds: Mapping[str, np.ndarray],
    of: str,
    wrt: Sequence[str],
    seed: np.ndarray,
    held: Mapping[str, np.ndarray] | None = None,
    dtype: torch.dtype = torch.float64,
) -> dict[str, np.ndarray]:
    """Return the gradients of ``sum(seed * of)`` for inputs, initializers and inner values.

    Args:
        model: The graph.
        feeds: Its inputs.
        of: The value that is differentiated.
        wrt: By what.
        seed: Of the shape of ``of``.
        held: As for ``run``.
        dtype: What floats are computed in.

    """
    with _default(dtype):
        return _gradients(model, feeds, of, wrt, seed, held)


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _gradients(
    model: onnx.ModelProto,
    feeds: Mapping[str, np.ndarray],
    of: str,
    wrt: Sequence[str],
    seed: np.ndarray,
    held: Mapping[str, np.ndarray] | None,
) -> dict[str, np.ndarray]:
    given = {tensor.name: _tensor(tensor) for tensor in model.graph.initializer}
    given |= {name: wide(array) for name, array in feeds.items()}
    for name in wrt:
        if name in given:
            given[name].requires_grad_()
    values = run(model, given, wrt, held)
    (values[of] * wide(seed)).sum().backward()
    return {name: values[name].grad.numpy() for name in wrt}


def _tensor(tensor: onnx.TensorProto) -> Tensor:
    return wide(onnx.numpy_helper.to_array(tensor))


def wide(array: np.ndarray) -> Tensor:
    """Return the array as a tensor, floats in the default type."""
    tensor = torch.from_numpy(np.array(array))
    return tensor.to(torch.get_default_dtype()) if tensor.is_floating_point() else tensor


def _axes(a: Attributes, axes: Tensor | None, x: Tensor) -> list[int]:
    given = a.get("axes") if axes is None else axes.tolist()
    return list(range(x.ndim)) if given is None else [int(axis) for axis in given]


def _reduce(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda a, x, axes=None: function(x, dim=_axes(a, axes, x), keepdim=bool(a.get("keepdims", 1)))


def _cast(a: Attributes, x: Tensor) -> Tensor:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(a["to"])
    if np.dtype(dtype).kind == "f" or a["to"] == onnx.TensorProto.BFLOAT16:
        return x.to(torch.get_default_dtype())
    return x.to(getattr(torch, np.dtype(dtype).name))


def _reshape(a: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    sizes = [x.shape[i] if n == 0 and not a.get("allowzero") else n for i, n in enumerate(shape.tolist())]
    return x.reshape(sizes)


def _squeeze(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    given = (
        [i for i, n in enumerate(x.shape) if n == 1]
        if axes is None and "axes" not in a
        else _axes(a, axes, x)
    )
    return x.squeeze(tuple(given))


def _unsqueeze(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    given = _axes(a, axes, x)
    for axis in sorted(axis % (x.ndim + len(given)) for axis in given):
        x = x.unsqueeze(axis)
    return x


def _slice(
    a: Attributes, x: Tensor, starts: Tensor, ends: Tensor, axes: Any = None, steps: Any = None
) -> Tensor:
    places = range(len(starts)) if axes is None else axes.tolist()
    for place, axis in enumerate(places):
        step = 1 if steps is None else int(steps[place])
        reach = range(x.shape[axis])[slice(int(starts[place]), int(ends[place]), step)]
        x = x.index_select(axis, torch.tensor(list(reach), dtype=torch.int64))
    return x


def _pad(a: Attributes, x: Tensor, pads: Tensor, value: Any = None, axes: Any = None) -> Tensor:
    mode = a.get("mode", b"constant").decode()
    along = [axis % x.ndim for axis in (range(x.ndim) if axes is None else axes.tolist())]
    before, behind = [0] * x.ndim, [0] * x.ndim
    for place, axis in enumerate(along):
        before[axis], behind[axis] = int(pads[place]), int(pads[place + len(along)])
    if mode == "constant":
        both = [n for axis in reversed(range(x.ndim)) for n in (before[axis], behind[axis])]
        cut = x if value is None else x - value
        padded = nn.pad(cut, both)
        return padded if value is None else padded + value
    for axis in along:
        places = np.pad(np.arange(x.shape[axis]), (before[axis], behind[axis]), mode=mode)
        x = x.index_select(axis, torch.from_numpy(places))
    return x


def _split(a: Attributes, x: Tensor, sizes: Tensor | None = None) -> Sequence[Tensor]:
    axis = a.get("axis", 0)
    if sizes is None:
        each = -(-x.shape[axis] // a["outputs"])
        return x.split(a.get("split", each), axis)
    return x.split(sizes.tolist(), axis)


def _gather(a: Attributes, x: Tensor, places: Tensor) -> Tensor:
    axis = a.get("axis", 0) % x.ndim
    flat = (places.long().reshape(-1) + x.shape[axis]) % x.shape[axis]
    return x.index_select(axis, flat).reshape([*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]])


def _gemm(a: Attributes, x: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    product = (x.T if a.get("transA") else x) @ (b.T if a.get("transB") else b) * a.get("alpha", 1.0)
    return product if c is None else product + c * a.get("beta", 1.0)


def _window(a: Attributes, x: Tensor, kernel: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Return strides, dilations, and pads in PyTorch's order."""
    strides, dilations = a.get("strides", [1] * len(kernel)), a.get("dilations", [1] * len(kernel))
    pads = list(a.get("pads", [0] * 2 * len(kernel)))
    mode = a.get("auto_pad", b"NOTSET").decode()
    if mode.startswith("SAME"):
        for i, (k, s, d) in enumerate(zip(kernel, strides, dilations, strict=True)):
            size = x.shape[2 + i]
            total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
            less = total // 2
            pads[i], pads[i + len(kernel)] = (
                (less, total - less) if mode == "SAME_UPPER" else (total - less, less)
            )
    both = [n for i in reversed(range(len(kernel))) for n in (pads[i], pads[i + len(kernel)])]
    return strides, dilations, both


def _conv(a: Attributes, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    strides, dilations, pads = _window(a, x, w.shape[2:])
    convolve = {1: nn.conv1d, 2: nn.conv2d, 3: nn.conv3d}[w.ndim - 2]
    return convolve(nn.pad(x, pads), w, b, strides, 0, dilations, a.get("group", 1))


def _conv_transpose(a: Attributes, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    _need(a.get("auto_pad", b"NOTSET") == b"NOTSET" and "output_shape" not in a)
    strides, dilations, pads = _window(a, x, w.shape[2:])
    convolve = {1: nn.conv_transpose1d, 2: nn.conv_transpose2d}[w.ndim - 2]
    more = a.get("output_padding", [0] * len(strides))
    group = a.get("group", 1)
    full = convolve(x, w, b, strides, 0, [0] * len(strides), group, dilations)
    grown = nn.pad(full, [n for one in reversed(more) for n in (0, one)])
    if b is not None and any(more):
        grown = grown - nn.pad(
            torch.zeros_like(full), [n for one in reversed(more) for n in (0, one)], value=0
        )
    return nn.pad(grown, [-one for one in pads])


def _max_pool(a: Attributes, x: Tensor) -> Tensor:
    kernel = a["kernel_shape"]
    strides, dilations, pads = _window(a, x, kernel)
    pool = {1: nn.max_pool1d, 2: nn.max_pool2d}[len(kernel)]
    return pool(nn.pad(x, pads, value=-torch.inf), kernel, strides, 0, dilations, bool(a.get("ceil_mode")))


def _average_pool(a: Attributes, x: Tensor) -> Tensor:
    kernel = a["kernel_shape"]
    strides, _, pads = _window(a, x, kernel)
    pool = {1: nn.avg_pool1d, 2: nn.avg_pool2d}[len(kernel)]
    total = pool(nn.pad(x, pads), kernel, strides, 0, bool(a.get("ceil_mode")))
    if a.get("count_include_pad"):
        return total
    return total / pool(nn.pad(torch.ones_like(x), pads), kernel, strides, 0, bool(a.get("ceil_mode")))


def _layer_norm(a: Attributes, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    axis = a.get("axis", -1) % x.ndim
    found = nn.layer_norm(x, x.shape[axis:], None, None, a.get("epsilon", 1e-5)) * scale
    return found if bias is None else found + bias


def _rms_norm(a: Attributes, x: Tensor, scale: Tensor) -> Tensor:
    axis = a.get("axis", -1) % x.ndim
    return nn.rms_norm(x, x.shape[axis:], None, a.get("epsilon", 1e-5)) * scale


INTERPOLATED = {"linear": ("linear", "bilinear"), "cubic": ("", "bicubic")}
"""PyTorch's names, of one axis and of two."""


def _resize(a: Attributes, x: Tensor, roi: Any, scales: Any = None, sizes: Any = None) -> Tensor:
    where = a.get("coordinate_transformation_mode", b"half_pixel").decode()
    mode = a.get("mode", b"nearest").decode()
    _need(
        mode in INTERPOLATED
        and where in ("half_pixel", "pytorch_half_pixel", "align_corners")
        and not {"axes", "antialias"} & {*a}
    )
    return nn.interpolate(
        x,
        None if sizes is None else sizes.tolist()[2:],
        None if sizes is not None else scales.tolist()[2:],
        INTERPOLATED[mode][x.ndim - 3],
        where == "align_corners",
    )


class OtherwiseError(ValueError):
    """PyTorch has the operator, and no form of it with these attributes."""


def _need(said: bool) -> None:
    if not said:
        raise OtherwiseError("PyTorch has the operator, and says this of it otherwise")


def _range(a: Attributes, first: Tensor, end: Tensor, step: Tensor) -> Tensor:
    count = int(torch.ceil((end - first) / step))
    return first + step * torch.arange(count, dtype=first.dtype)


def _batch_norm(a: Attributes, x: Tensor, *of_channels: Tensor) -> Tensor:
    w, b, mean, variance = (one.reshape(-1, *[1] * (x.ndim - 2)) for one in of_channels)
    return (x - mean) / torch.sqrt(variance + a.get("epsilon", 1e-5)) * w + b


def _expand(a: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, tuple(shape.tolist())))


def _of(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda a, *inputs: function(*inputs)


def _divide(x: Tensor, y: Tensor) -> Tensor:
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def _pick(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def picked(a: Attributes, first: Tensor, *others: Tensor) -> Tensor:
        for other in others:
            first = function(first, other)
        return first

    return picked


def _gelu(a: Attributes, x: Tensor) -> Tensor:
    return nn.gelu(x, approximate=a.get("approximate", b"none").decode())


def _constant(a: Attributes) -> Tensor:
    return _tensor(a["value"])


def _filled(a: Attributes, shape: Tensor) -> Tensor:
    value = _tensor(a["value"]).reshape(()) if "value" in a else torch.tensor(0.0)
    return value.expand(shape.tolist()).clone()


def _shape(a: Attributes, x: Tensor) -> Tensor:
    return torch.tensor(x.shape[a.get("start", 0) : a.get("end")], dtype=torch.int64)


def _attention(a: Attributes, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    heads = [a.get("q_num_heads"), a.get("kv_num_heads"), a.get("kv_num_heads")]
    split = [
        x if x.ndim == 4 else x.unflatten(-1, (n, -1)).transpose(1, 2)
        for x, n in zip((q, k, v), heads, strict=True)
    ]
    found = nn.scaled_dot_product_attention(
        *split, attn_mask=mask, is_causal=bool(a.get("is_causal")), enable_gqa=True, scale=a.get("scale")
    )
    return found if q.ndim == 4 else found.transpose(1, 2).flatten(2)


SAME_NAME = (
    *("Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "Greater", "Less", "Log", "Neg", "Reciprocal", "Round"),
    *("Sigmoid", "Sign", "Sin", "Sqrt", "Tanh", "Where"),
)

OPERATORS: dict[str, Callable[..., Any]] = {
    **{name: _of(getattr(torch, name.lower())) for name in SAME_NAME},
    "Equal": _of(torch.eq),
    "GreaterOrEqual": _of(torch.ge),
    "IsNaN": _of(torch.isnan),
    "LessOrEqual": _of(torch.le),
    "Add": _of(torch.add),
    "And": _of(torch.logical_and),
    "Attention": _attention,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Celu": lambda a, x: nn.celu(x, a.get("alpha", 1.0)),
    "Clip": lambda a, x, low=None, high=None: torch.clamp(x, low, high),
    "Concat": lambda a, *xs: torch.cat(xs, a["axis"]),
    "Constant": _constant,
    "ConstantOfShape": _filled,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Div": _of(_divide),
    "Dropout": lambda a, x, *_: x,
    "Einsum": lambda a, *xs: torch.einsum(a["equation"].decode(), *xs),
    "Elu": lambda a, x: nn.elu(x, a.get("alpha", 1.0)),
    "Expand": _expand,
    "Flatten": lambda a, x: x.reshape(math.prod(x.shape[: a.get("axis", 1)]), -1),
    "Gather": _gather,
    "GatherElements": lambda a, x, i: torch.gather(x, a.get("axis", 0), i % x.shape[a.get("axis", 0)]),
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda a, x: x.mean(tuple(range(2, x.ndim)), keepdim=True),
    "GlobalMaxPool": lambda a, x: x.amax(tuple(range(2, x.ndim)), keepdim=True),
    "GroupNormalization": lambda a, x, w, b: nn.group_norm(x, a["num_groups"], w, b, a.get("epsilon", 1e-5)),
    "HardSigmoid": lambda a, x: torch.clamp(x * a.get("alpha", 0.2) + a.get("beta", 0.5), 0, 1),
    "HardSwish": _of(nn.hardswish),
    "Identity": _of(lambda x: x),
    "InstanceNormalization": lambda a, x, w, b: nn.instance_norm(
        x, weight=w, bias=b, eps=a.get("epsilon", 1e-5)
    ),
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda a, x: nn.leaky_relu(x, a.get("alpha", 0.01)),
    "LogSoftmax": lambda a, x: nn.log_softmax(x, a.get("axis", -1)),
    "MatMul": _of(torch.matmul),
    "Max": _pick(torch.maximum),
    "MaxPool": _max_pool,
    "Mean": lambda a, *xs: sum(xs) / len(xs),
    "Min": _pick(torch.minimum),
    "Mish": _of(nn.mish),
    "Mul": _of(torch.mul),
    "Not": _of(torch.logical_not),
    "PRelu": _of(lambda x, slope: torch.where(x > 0, x, x * slope)),
    "Pad": _pad,
    "Pow": _of(torch.pow),
    "RMSNormalization": _rms_norm,
    "Range": _range,
    "ReduceL1": _reduce(lambda x, **of: x.abs().sum(**of)),
    "ReduceL2": _reduce(lambda x, **of: x.square().sum(**of).sqrt()),
    "ReduceLogSum": _reduce(lambda x, **of: x.sum(**of).log()),
    "ReduceLogSumExp": _reduce(torch.logsumexp),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceMin": _reduce(torch.amin),
    "ReduceSum": _reduce(torch.sum),
    "ReduceSumSquare": _reduce(lambda x, **of: x.square().sum(**of)),
    "Relu": _of(torch.relu),
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _shape,
    "Slice": _slice,
    "Softmax": lambda a, x: nn.softmax(x, a.get("axis", -1)),
    "Softplus": _of(nn.softplus),
    "Softsign": _of(nn.softsign),
    "Split": _split,
    "Squeeze": _squeeze,
    "Sub": _of(torch.sub),
    "Sum": lambda a, *xs: sum(xs),
    "Tile": lambda a, x, times: x.repeat(times.tolist()),
    "Transpose": lambda a, x: x.permute(a.get("perm", list(reversed(range(x.ndim))))),
    "Trilu": lambda a, x, k=0: (torch.triu if a.get("upper", 1) else torch.tril)(x, int(k)),
    "Unsqueeze": _unsqueeze,
}
