"""Products of 8-bit integers in a graph, and those that can saturate where sums of two have 16 bits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.analysis.layers import Layer, is_depthwise
from onnxq.analysis.quantized import dequantized
from onnxq.ir.module import GraphModule, attribute, constant_tensor, input_of, is_standard
from onnxq.ir.stored import StoredTensor
from onnxq.quant.encodings import Encoding
from onnxq.quant.pairs import LARGEST_ACTIVATION, LARGEST_PAIR, as_matrix, largest_pairs, orders_of

EIGHT_BITS = (ir.DataType.INT8, ir.DataType.UINT8)
FACTORS = {
    "ConvInteger": (0, 1),
    "DynamicQuantizeMatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "MatMulIntegerToFloat": (0, 1),
    "QAttention": (0, 1),
    "QGemm": (0, 3),
    "QLinearConv": (0, 3),
    "QLinearMatMul": (0, 3),
}
"""Which inputs of an integer operator are its activation and its weight."""
LARGEST_HALF = 2**30
TOO_MANY = "int32 does not hold its sums of so many products"


def saturating_products(module: GraphModule) -> list[ir.Node]:
    """Return the layers with int8 weights so large that two of their products can exceed 16 bits.

    They are right where a processor adds up in 32 bits. Which two values of a weight meet:
    ``onnxq.quant.pairs``. Depthwise convolutions are no such layers: see ``Target.weight_limit``.
    """
    nodes = ir.traversal.RecursiveGraphIterator(module.model.graph)
    return [node for node in nodes if _exceeds(node, integer_weight(node))]


def sums_fit(layer: Layer, weight: NDArray[Any], encoding: Encoding) -> bool:
    """Tell whether int32 holds all that ``layer`` adds up of ``weight``, so encoded, and 8-bit activations.

    An activation is at most 255 steps from its zero point. Half of int32 is for the bias that is added.
    """
    inner = (-2,) if is_standard(layer.node, "MatMul") else _without(layer.channel_axis, weight.ndim)
    products = math.prod(weight.shape[axis] for axis in inner)
    if products * LARGEST_ACTIVATION * max(map(abs, encoding.limits)) <= LARGEST_HALF:
        return True
    sums = np.abs(encoding.quantize(weight)).sum(axis=inner, dtype=np.int64)
    return int(sums.max()) * LARGEST_ACTIVATION <= LARGEST_HALF


def _without(axis: int, rank: int) -> tuple[int, ...]:
    return tuple(other for other in range(rank) if other != axis)


def integer_weight(node: ir.Node) -> ir.TensorProtocol | None:
    """Return the int8 weight that a node multiplies with 8-bit activations, unless its kernel is exact."""
    if node.op_type in FACTORS:
        activation, weight = (input_of(node, index) for index in FACTORS[node.op_type])
    elif is_standard(node, "Conv", "Gemm", "MatMul"):
        activation, weight = (_eight_bits(input_of(node, index)) for index in (0, 1))
    else:
        return None
    integers = constant_tensor(weight)
    if activation is None or integers is None or integers.dtype != ir.DataType.INT8:
        return None
    return None if is_depthwise(node, integers) else integers


def _eight_bits(value: ir.Value | None) -> ir.Value | None:
    """Return the 8-bit integers that ``value`` is read from, if they have no blocks."""
    found = dequantized(value)
    if found is None or found.block_size is not None or found.stored.dtype not in EIGHT_BITS:
        return None
    return found.stored


def _exceeds(node: ir.Node, weight: ir.TensorProtocol | None) -> bool:
    if weight is None or _is_limited(weight):
        return False
    integers = weight.numpy()
    axis = _channel_axis(node, integers.ndim)
    orders = orders_of(integers.shape[:axis] + integers.shape[axis + 1 :])
    return bool((largest_pairs(as_matrix(integers, axis), orders) > LARGEST_PAIR).any())


def _channel_axis(node: ir.Node, rank: int) -> int:
    """Return which axis of a product's weight counts output channels."""
    first = "Conv" in node.op_type or attribute(node, "transB", 0)
    return 0 if first else rank - 1


def _is_limited(weight: ir.TensorProtocol) -> bool:
    """Tell whether the encoding of a weight that is not computed yet keeps two of its integers in bounds."""
    return isinstance(weight, StoredTensor) and 2 * max(map(abs, weight.encoding.limits)) <= LARGEST_PAIR
