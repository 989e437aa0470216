"""What makes channels out of constants, and what takes them in again: the two ends of a fold site."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from onnxq.analysis.channels import Channels, Operand, at_axis, operand_along, plain_attention, step
from onnxq.analysis.layers import Layer, layer_of
from onnxq.ir.module import (
    LINEAR,
    attribute,
    constant_of,
    input_of,
    is_float,
    is_standard,
    rank_of,
    sole_reader,
)

Kind = Literal["norm", "linear", "relu", "value", "query-key", "activation"]

NORMS = {
    "LayerNormalization": -1,
    "RMSNormalization": -1,
    "SimplifiedLayerNormalization": -1,
    "BatchNormalization": 1,
    "InstanceNormalization": 1,
}
"""The normalizations with a scale for each channel, and the axis of their channels."""


@dataclass(frozen=True)
class Place:
    """A value that holds the channels, where they lie in it, and whether a shift shows in it."""

    value: ir.Value
    channels: Channels
    shifted: bool = True


@dataclass(frozen=True)
class Consumer:
    """A linear layer that reads the channels.

    Args:
        layer: The layer.
        weight: Its weight, along the axis that meets the channels.
        bias: Its bias, along its output channels: its own, or that of an Add behind it. None if there is
            no constant one, or the layer pads its input.

    """

    layer: Layer
    weight: Operand
    bias: Operand | None


@dataclass(frozen=True)
class Factor:
    """A constant per channel that multiplies the channels, and takes their scale in.

    Args:
        factor: The constant of a Mul.
        offset: The constant that an Add behind it adds, or the bias of what is added; takes a shift in.

    """

    factor: Operand
    offset: Operand | None


@dataclass(frozen=True)
class Source:
    """Constants that make the channels of ``place``: see ``Site``.

    ``before`` is what a layer or a Mul computes in front of the Add that ``place`` stands behind.
    """

    kind: Kind
    place: Place
    scaled: Operand
    offset: Operand | None
    more: tuple[Operand, ...] = ()
    before: Place | None = None


def source_of(node: ir.Node) -> Source | None:
    """Return what ``node`` and an Add behind it make channels of, if constants make them."""
    if is_standard(node, *NORMS):
        found = _normalization(node)
    elif is_standard(node, *LINEAR):
        found = _projection(node)
    else:
        found = _scaling(node) if is_standard(node, "Mul") else None
    return found if found is not None and is_float(found.place.value) else None


def _normalization(node: ir.Node) -> Source | None:
    axis, gamma = NORMS[node.op_type], constant_of(input_of(node, 1))
    rank = rank_of(node.outputs[0])
    if rank is None or gamma is None or gamma.ndim != 1 or attribute(node, "training_mode", 0):
        return None
    if axis < 0 and attribute(node, "axis", -1) % rank != rank - 1:
        return None
    own, place = Channels((-1,), (gamma.size,)), Channels((axis % rank - rank,), (gamma.size,))
    length = node.outputs[0].shape[axis] if node.outputs[0].shape else None
    if gamma.size == 1 and length != 1:
        return None
    offset = (
        None
        if is_standard(node, "RMSNormalization", "SimplifiedLayerNormalization")
        else Operand(node, 2, own)
    )
    if offset is not None and input_of(node, 2) is not None and offset.constant is None:
        return None
    return Source("norm", Place(node.outputs[0], place), Operand(node, 1, own), offset)


def _projection(node: ir.Node) -> Source | None:
    layer = layer_of(node)
    channels = output_channels(layer) if isinstance(layer, Layer) else None
    if not isinstance(layer, Layer) or channels is None:
        return None
    weight = _made_along(layer, channels)
    if layer.node.op_type == "MatMul":
        return _with_addend("linear", layer.output, channels, weight)
    if layer.bias is None:
        return Source("linear", Place(layer.output, channels), weight, None)
    bias = bias_of(layer)
    if bias is None:
        return None
    if _scales(node):
        return Source("linear", Place(layer.output, channels), weight, None, (bias,))
    return Source("linear", Place(layer.output, channels), weight, bias)


def _made_along(layer: Layer, channels: Channels) -> Operand:
    groups = attribute(layer.node, "group", 1) if layer.node.op_type == "ConvTranspose" else 1
    rank = rank_of(layer.weight) or 0
    return Operand(layer.node, 1, Channels((layer.channel_axis - rank,), channels.dims), groups)


def _scaling(node: ir.Node) -> Source | None:
    """Return the channels that a Mul with one factor for each of them makes."""
    arrays = [constant_of(value) for value in node.inputs]
    index = next((index for index, array in enumerate(arrays) if array is not None), None)
    array = None if index is None else arrays[index]
    if index is None or array is None or arrays[1 - index] is not None:
        return None
    axes = [axis - array.ndim for axis, length in enumerate(array.shape) if length != 1]
    channels = at_axis(node.outputs[0], axes[0]) if len(axes) == 1 else None
    if channels is None or channels.count != array.size:
        return None
    return _with_addend("norm", node.outputs[0], channels, Operand(node, index, channels))


def _with_addend(kind: Kind, value: ir.Value, channels: Channels, scaled: Operand) -> Source:
    """Take in the constant that the one reader of ``value`` adds to it."""
    offset = _addend_behind(value, channels)
    if offset is None:
        return Source(kind, Place(value, channels), scaled, None)
    place = Place(offset.node.outputs[0], channels)
    return Source(kind, place, scaled, offset, before=Place(value, channels, shifted=False))


def consumer_at(node: ir.Node, index: int, channels: Channels) -> Consumer | None:
    """Return the layer that reads the channels, all of them along one axis of its weight."""
    layer = layer_of(node) if index == 0 and is_standard(node, *LINEAR) else None
    if not isinstance(layer, Layer):
        return None
    weight = _met_by(layer, channels)
    return None if weight is None else Consumer(layer, weight, _shiftable_bias(layer))


def _met_by(layer: Layer, channels: Channels) -> Operand | None:
    rank, activation = rank_of(layer.weight) or 0, rank_of(layer.activation)
    count, node = (channels.count,), layer.node
    if is_standard(node, "Conv", "ConvTranspose"):
        if activation is None or channels.axes != (1 - activation,):
            return None
        groups = attribute(node, "group", 1) if node.op_type == "Conv" else 1
        return Operand(node, 1, Channels((1 - rank if node.op_type == "Conv" else -rank,), count), groups)
    if channels.axes != (-1,) or activation == 1:
        return None  # a vector's one axis counts for samples, not channels, wherever it is measured
    return Operand(node, 1, Channels((-1 if layer.channel_axis == 0 else -2,), count))


def _shiftable_bias(layer: Layer) -> Operand | None:
    """Return the bias that takes in what a shift of the input adds to each output; None if none can."""
    plain = is_standard(layer.node, "Gemm", "MatMul") and not _scales(layer.node)
    return bias_of(layer) if plain and rank_of(layer.weight) == 2 else None


def _scales(node: ir.Node) -> bool:
    return bool(attribute(node, "alpha", 1.0) != 1 or attribute(node, "beta", 1.0) != 1)


def output_channels(layer: Layer) -> Channels | None:
    """Return where the output channels lie in what a layer computes."""
    axis = 1 if is_standard(layer.node, "Conv", "ConvTranspose") else -1
    groups = attribute(layer.node, "group", 1) if layer.node.op_type == "ConvTranspose" else 1
    length = layer.weight.shape[layer.channel_axis] if layer.weight.shape else None
    rank = rank_of(layer.output)
    if not isinstance(length, int) or (axis == 1 and rank is None):
        return None
    return Channels((axis if rank is None or axis < 0 else axis - rank,), (length * groups,))


def bias_of(layer: Layer) -> Operand | None:
    """Return the constant bias of a layer: its own, or for a MatMul that of the Add that alone reads it."""
    channels = output_channels(layer)
    if channels is None:
        return None
    if layer.node.op_type == "Gemm":
        return operand_along(layer.node, 2, channels) if layer.bias is not None else None
    if layer.node.op_type != "MatMul":
        return (
            None
            if constant_of(layer.bias) is None
            else Operand(layer.node, 2, Channels((-1,), channels.dims))
        )
    return _addend_behind(layer.output, channels)


def bias_place(layer: Layer) -> Operand | None:
    """Return where a layer's constant bias is, or where one can be added without a node; None if nowhere."""
    channels = output_channels(layer)
    if channels is None or _scales(layer.node):
        return None
    if layer.bias is None and layer.node.op_type != "MatMul":
        return Operand(layer.node, 2, Channels((-1,), channels.dims))
    return bias_of(layer)


def _addend_behind(value: ir.Value, channels: Channels) -> Operand | None:
    """Return the constant that the one reader of ``value`` adds to it."""
    reader = sole_reader(value)
    if reader is None or not is_standard(reader, "Add", "Sum"):
        return None
    passed = step(reader, 0 if reader.inputs[0] is value else 1, channels)
    return None if passed is None else passed.operand


def _offset_behind(value: ir.Value, channels: Channels) -> Operand | None:
    """Return the constant that the one reader of ``value`` adds, or the bias of what else it adds."""
    reader = sole_reader(value)
    bias = None if reader is None else summand_bias(reader, Place(value, channels))
    return _addend_behind(value, channels) or bias


def summand_bias(node: ir.Node, place: Place) -> Operand | None:
    """Return the constant bias in what ``node`` adds to ``place``, if nobody else reads that sum."""
    if not is_standard(node, "Add", "Sum") or len(node.inputs) != 2 or place.channels.axis != -1:
        return None
    other = node.inputs[1 if node.inputs[0] is place.value else 0]
    producer = None if other is None or other is place.value else other.producer()
    if other is None or producer is None or sole_reader(other) is not node:
        return None
    if is_standard(producer, "Gemm"):
        layer = layer_of(producer)
        bias = _shiftable_bias(layer) if isinstance(layer, Layer) else None
        return bias if bias is not None and bias.channels == place.channels else None
    found = [operand_along(producer, index, place.channels) for index in range(len(producer.inputs))]
    biases = [operand for operand in found if operand is not None]
    return biases[0] if is_standard(producer, "Add", "Sum") and len(biases) == 1 else None


def factor_at(node: ir.Node, index: int, channels: Channels) -> Factor | None:
    """Return the constant per channel that multiplies the channels."""
    if not is_standard(node, "Mul") or (rank_of(node.inputs[1 - index]) or 0) > -channels.axes[0]:
        return None
    found = operand_along(node, 1 - index, channels)
    array = None if found is None else found.constant
    if found is None or array is None or array.size != channels.count or array.size == 1:
        return None
    return Factor(found, _offset_behind(node.outputs[0], channels))


def reads_score(node: ir.Node, index: int, channels: Channels) -> bool:
    """Tell whether ``node`` multiplies queries by keys, summing over the innermost channels."""
    if is_standard(node, "Attention"):
        return index in (0, 1) and plain_attention(node)
    if not is_standard(node, "MatMul") or any(constant_of(value) is not None for value in node.inputs):
        return False
    innermost = -1 if index == 0 else -2
    return channels.axes[-1] == innermost


def input_channels(layer: Layer) -> Channels | None:
    """Return where the channels lie in what a layer reads."""
    node, shape, rank = layer.node, layer.weight.shape, rank_of(layer.activation)
    if shape is None:
        return None
    if is_standard(node, "Conv", "ConvTranspose"):
        axis = 1 if node.op_type == "Conv" else 0
        length, groups = shape[axis], attribute(node, "group", 1) if axis else 1
        return Channels((1 - rank,), (length * groups,)) if rank and isinstance(length, int) else None
    length = shape[-1 if layer.channel_axis == 0 else -2]
    return Channels((-1,), (length,)) if isinstance(length, int) else None
