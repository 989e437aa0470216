"""ONNX Runtime's own operators, said with standard ones: what its optimizer for transformers has fused.

It fuses them again when it opens a file. Written out, their weights are those of layers and tables like any
other, and their attention is found like any other.

Source:
    docs/ContribOperators.md of onnxruntime 1.31.1; the tests compare each of them before and after.

"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.ir.module import attribute, constant_tensor, input_of, rank_of
from onnxq.rewrite.builder import Builder

HEADS_FIRST, TOKENS_LAST = [0, 2, 1, 3], [0, 2, 3, 1]
MASKED = -10000.0
"""What is added to the scores of keys that do not count, unless an attribute says otherwise."""
FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


class CannotUnfuseError(Exception):
    """The reason why a node stays as it is."""


Results = list[ir.Value | None]
"""What stands for each output of a node; None for one that is not computed."""


def bias_gelu(node: ir.Node, op: Builder) -> Results:
    """``gelu(x + b)``, with the error function."""
    return [_gelu(op.Add(*node.inputs[:2]), node, op)]


def gelu(node: ir.Node, op: Builder) -> Results:
    """``x / 2 * (1 + erf(x / sqrt(2)))``."""
    return [_gelu(_given(node, 0), node, op)]


def fast_gelu(node: ir.Node, op: Builder) -> Results:
    """``x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))`` of x plus a bias, if there is one."""
    x, bias = _given(node, 0), input_of(node, 1)
    x = x if bias is None else op.Add(x, bias)
    cubed = op.Mul(op.Pow(x, _number(3, node)), _number(0.044715, node))
    bent = op.Tanh(op.Mul(op.Add(x, cubed), _number(math.sqrt(2 / math.pi), node)))
    return [op.Mul(op.Mul(x, _number(0.5, node)), op.Add(bent, _number(1, node)))]


def fused_matmul(node: ir.Node, op: Builder) -> Results:
    """``alpha * a @ b``, with either transposed; the factor goes into a constant, where one is."""
    if attribute(node, "transBatchA", 0) or attribute(node, "transBatchB", 0):
        raise CannotUnfuseError("it moves the axis of a batch")
    left = _turned(node, 0, "transA", op)
    right = _turned(node, 1, "transB", op)
    alpha = float(attribute(node, "alpha", 1.0))
    if alpha == 1:
        return [op.MatMul(left, right)]
    if constant_tensor(node.inputs[1]) is not None:
        return [op.MatMul(left, op.Mul(right, _number(alpha, node)))]
    return [op.Mul(op.MatMul(left, right), _number(alpha, node))]


def skip_layer_normalization(node: ir.Node, op: Builder) -> Results:
    """``norm(x + bias + skip)``, and the sum."""
    x, skip, bias = _given(node, 0), _given(node, 1), input_of(node, 4)
    total = op.Add(x if bias is None else op.Add(x, bias), skip, like=x)
    return [_norm(total, node, 2, op), None, None, total]


def embed_layer_normalization(node: ir.Node, op: Builder) -> Results:
    """Rows of tables of words, places and segments, added and normalized; how many words count; the sum."""
    ids, words, mask, chosen = _given(node, 0), _given(node, 2), input_of(node, 7), input_of(node, 8)
    segments, parts = input_of(node, 1), input_of(node, 4)
    places = _numbers_up_to(_length(ids, 1, op), op) if chosen is None else chosen
    rows = op.Gather(words, ids)
    total = op.Add(rows, op.Gather(_given(node, 3), places), like=rows)
    if segments is not None and parts is not None:
        total = op.Add(total, op.Gather(parts, segments), like=rows)
    counts = None if mask is None else op.ReduceSum(mask, np.array([1], np.int64), keepdims=0)
    return [_norm(total, node, 5, op), counts, total]


def attention(node: ir.Node, op: Builder) -> Results:
    """Three layers of one value, and attention between what they give."""
    if any(input_of(node, index) is not None for index in (4, 6)) or attribute(node, "do_rotary", 0):
        raise CannotUnfuseError("it keeps a cache, or turns queries and keys")
    x, weight, bias = _given(node, 0), constant_tensor(node.inputs[1]), constant_tensor(input_of(node, 2))
    if weight is None or (bias is None and input_of(node, 2) is not None):
        raise CannotUnfuseError("its weights are computed at run time")
    packed = weight.numpy()
    widths = attribute(node, "qkv_hidden_sizes", [packed.shape[1] // 3] * 3)
    ends = np.cumsum(widths)[:-1]
    matrices = np.split(packed, ends, axis=1)
    layers = [op.MatMul(x, np.ascontiguousarray(matrix)) for matrix in matrices]
    if bias is not None:
        parts = np.split(bias.numpy(), ends)
        layers = [op.Add(layer, part) for layer, part in zip(layers, parts, strict=True)]
    return [_attend(node, layers, [int(width) for width in widths], (3, 5), op)]


def _attend(
    node: ir.Node, layers: list[ir.Value], widths: list[int], masks: tuple[int, int], op: Builder
) -> ir.Value:
    """Return ``softmax(q @ k.T * scale + masks) @ v``, with heads split off and merged again."""
    heads = int(attribute(node, "num_heads", 0))
    perms = (HEADS_FIRST, TOKENS_LAST, HEADS_FIRST)
    query, key, value = (
        op.Transpose(op.Reshape(layer, np.array([0, 0, heads, width // heads], np.int64)), perm=perm)
        for layer, width, perm in zip(layers, widths, perms, strict=True)
    )
    scale = float(attribute(node, "scale", 0.0)) or 1 / math.sqrt(widths[0] // heads)
    scores = op.Mul(op.MatMul(query, key), _number(scale, node))
    for mask in _masks(node, layers[1], masks, op):
        scores = op.Add(scores, mask)
    mixed = op.Transpose(op.MatMul(op.Softmax(scores, axis=-1), value), perm=HEADS_FIRST)
    return op.Reshape(mixed, np.array([0, 0, widths[2]], np.int64))


def _masks(node: ir.Node, keys: ir.Value, places: tuple[int, int], op: Builder) -> list[ir.Value]:
    """Return what is added to the scores: for keys that do not count, and as a bias of its own."""
    if attribute(node, "unidirectional", 0):
        raise CannotUnfuseError("it is causal")
    mask, bias = (input_of(node, index) for index in places)
    found = [] if mask is None else [_added(_keys_that_count(mask, keys, op), node, op)]
    return [*found, *([] if bias is None else [bias])]


def _keys_that_count(mask: ir.Value, keys: ir.Value, op: Builder) -> ir.Value:
    """Return flags of shape (batch, keys): given so, or as how many of the first keys count."""
    if rank_of(mask) == 2 and mask.dtype is not None:
        return op.Greater(mask, np.zeros((), mask.dtype.numpy()))
    if rank_of(mask) != 1 or not _counts_batch(mask, op):
        raise CannotUnfuseError("nobody knows which keys its mask means")
    places = _numbers_up_to(_length(keys, 1, op), op)
    lengths = op.Unsqueeze(op.Cast(mask, to=int(ir.DataType.INT64)), np.array([1], np.int64))
    return op.Less(places, lengths)


def _counts_batch(mask: ir.Value, op: Builder) -> bool:
    """Tell whether a vector has an entry for each sample; it may have several, which mean other things."""
    inputs = op.writer.module.graph.inputs
    batches = [value.shape[0] for value in inputs if value.shape is not None and len(value.shape) > 1]
    return mask.shape is not None and mask.shape[0] != ir.SymbolicDim(None) and mask.shape[0] in batches


def _added(flags: ir.Value, node: ir.Node, op: Builder) -> ir.Value:
    """Return 0 for keys that count and a large negative number for others, (batch, 1, 1, keys)."""
    masked = float(attribute(node, "mask_filter_value", MASKED))
    absent = op.Sub(_number(1, node), op.Cast(flags, to=int(_dtype(node))))
    return op.Mul(op.Unsqueeze(absent, np.array([1, 2], np.int64)), _number(masked, node))


def _norm(value: ir.Value, node: ir.Node, first: int, op: Builder) -> ir.Value:
    """Normalize over the last axis with the scale at input ``first`` of the node, and the bias behind it."""
    epsilon = float(attribute(node, "epsilon", 1e-12))
    return op.LayerNormalization(
        value, _given(node, first), input_of(node, first + 1), axis=-1, epsilon=epsilon
    )


def _gelu(x: ir.Value, node: ir.Node, op: Builder) -> ir.Value:
    bent = op.Erf(op.Mul(x, _number(1 / math.sqrt(2), node)))
    return op.Mul(op.Mul(x, _number(0.5, node)), op.Add(bent, _number(1, node)))


def _turned(node: ir.Node, index: int, name: str, op: Builder) -> ir.Value:
    """Return an input of a product, with its last axes changed for each other where an attribute asks."""
    value = _given(node, index)
    if not attribute(node, name, 0):
        return value
    rank = rank_of(value)
    if rank is None or rank < 2:
        raise CannotUnfuseError("nobody knows how many axes it turns")
    return op.Transpose(value, perm=[*range(rank - 2), rank - 1, rank - 2])


def _length(value: ir.Value, axis: int, op: Builder) -> ir.Value:
    """Return the length of an axis as a scalar: of an input of the model, where one has it by name."""
    value, axis = _with_same_length(value, axis, op) or (value, axis)
    return op.Squeeze(op.Shape(value, start=axis, end=axis + 1), np.array([0], np.int64))


def _with_same_length(value: ir.Value, axis: int, op: Builder) -> tuple[ir.Value, int] | None:
    length = None if value.shape is None else value.shape[axis]
    for given in op.writer.module.graph.inputs if length not in (None, ir.SymbolicDim(None)) else ():
        for place, size in enumerate(given.shape or ()):
            if size == length:
                return given, place
    return None


def _numbers_up_to(length: ir.Value, op: Builder) -> ir.Value:
    return op.Range(np.array(0, np.int64), length, np.array(1, np.int64))


def _given(node: ir.Node, index: int) -> ir.Value:
    value = input_of(node, index)
    if value is None:
        raise CannotUnfuseError(f"its input {index} is missing")
    return value


def _dtype(node: ir.Node) -> ir.DataType:
    """Return the float type that a node computes in."""
    found = next((v.dtype for v in node.inputs if v is not None and v.dtype in FLOATS), None)
    if found is None:
        raise CannotUnfuseError("the type of its input is not known")
    return found


def _number(number: float, node: ir.Node) -> NDArray[Any]:
    return np.array(number, _dtype(node).numpy())


UNFUSED: Mapping[str, Callable[[ir.Node, Builder], Results]] = {
    "Attention": attention,
    "BiasGelu": bias_gelu,
    "EmbedLayerNormalization": embed_layer_normalization,
    "FastGelu": fast_gelu,
    "FusedMatMul": fused_matmul,
    "Gelu": gelu,
    "SkipLayerNormalization": skip_layer_normalization,
}
"""How each operator is written out."""
