"""Which weight of one model is which of another: equal, transposed, quantized, or a part of a larger one."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.analysis.quantized import Quantized, read_dequantize
from onnxq.diff.flat import CONVERTERS, Flat, family_of, is_product
from onnxq.errors import ModelError
from onnxq.ir.module import attribute, input_of
from onnxq.quant.likeness import ALIKE, by_channel, sample_of
from onnxq.quant.packing import unpack

_MOVERS = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_PLACES: Mapping[str, tuple[int, int | None, int | None]] = {
    "MatMulIntegerToFloat": (1, 3, 5),
    "MatMulInteger": (1, None, 3),
    "ConvInteger": (1, None, 3),
    "QLinearMatMul": (3, 4, 5),
    "QLinearConv": (3, 4, 5),
    "QGemm": (3, 4, 5),
    "QAttention": (1, 4, 7),
    "DynamicQuantizeMatMul": (1, 2, 3),
    "MatMulNBits": (1, 2, 3),
    "Gather": (0, None, None),
    "GatherBlockQuantized": (0, 2, 3),
}
"""Where an operator has its weight, that weight's scale, and its zero point; others have it at 1."""
_BLOCKS = {"GatherBlockQuantized": 128}
"""The length of a block where an operator does not say."""
SMALLEST_CHANNEL = 8
"""Elements of a channel below which its direction alone says too little."""
_READS_WEIGHTS = frozenset({"Attention", "Gather", "GatherBlockQuantized", "QAttention"})


@dataclass(frozen=True, eq=False)
class Stored:
    """A weight as a node reads it.

    Args:
        node: The node.
        value: The initializer.
        scale: Its scale, if it holds integers and the scale is a constant.
        zero_point: Likewise.
        axis: The channel axis of the scale, or the axis cut into blocks.
        block_size: The length of a block; 0 for none.
        dequantized: Whether a DequantizeLinear stands between it and the node.

    """

    node: ir.Node
    value: ir.Value
    scale: ir.Value | None = None
    zero_point: ir.Value | None = None
    axis: int = 1
    block_size: int = 0
    dequantized: bool = False

    @cached_property
    def real(self) -> NDArray[Any]:
        """The real values; integers less their zero point where the scale is computed at run time."""
        stored, zero_points = _array(self.value), self.zero_points
        if self._packing is not None:
            rows = self._unpacked(stored, *self._packing)
            return rows.T if self.node.op_type == "MatMulNBits" else rows
        if zero_points is not None:
            stored = stored.astype(np.float32) - self._spread(zero_points.astype(np.float32), stored.shape)
        if self.scale is not None:
            stored = stored * self._spread(_array(self.scale), stored.shape)
        return stored

    @property
    def size(self) -> int:
        """How many real values there are."""
        if self._packing is not None:
            return self._packing[0] * self._packing[1]
        return 0 if self.value.const_value is None else self.value.const_value.size

    @property
    def zero_points(self) -> NDArray[Any] | None:
        """The zero points as numbers, of shape (rows, blocks) where those are packed; None if none."""
        stored = None if self.zero_point is None else _array(self.zero_point)
        if self._packing is None:
            return stored
        count, length, bits = self._packing
        blocks = -(-length // self.block_size)
        if stored is None:
            return np.full((count, blocks), 1 << (bits - 1))
        rows = stored.reshape(count, -1)
        return unpack(rows, bits, blocks) if rows.dtype == np.uint8 else rows

    @property
    def channel_axis(self) -> int:
        """The axis that counts what the node gives."""
        first = family_of(self.node) == "Conv" or attribute(self.node, "transB", 0)
        return 0 if first else len(self.real.shape) - 1

    def _spread(self, parameter: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """Give a scale or zero point the shape of the weight.

        Raises:
            ModelError: It does not fit the weight.

        """
        try:
            return np.broadcast_to(self._laid_out(parameter, shape), shape)
        except (ValueError, IndexError, ZeroDivisionError) as error:
            text = f"a scale or zero point of shape {list(parameter.shape)} does not fit {list(shape)}"
            where = f"weight {self.value.name!r}"
            raise ModelError(text, where=where, hint="the model is damaged: export it again") from error

    def _laid_out(self, parameter: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        if parameter.size == 1:
            return parameter.reshape(())
        axis = self.axis % len(shape)
        if self.block_size:
            return np.repeat(parameter, self.block_size, axis)[tuple(slice(length) for length in shape)]
        if parameter.ndim != 1 or parameter.size != shape[axis]:
            axis = next((place for place, length in enumerate(shape) if length == parameter.size), axis)
        return parameter.reshape([-1 if place == axis else 1 for place in range(len(shape))])

    @property
    def _packing(self) -> tuple[int, int, int] | None:
        """How many rows there are, how long they are, and their bits, where rows are packed into bytes."""
        bits = attribute(self.node, "bits", 4)
        if self.node.op_type == "MatMulNBits" and not self.dequantized:
            return attribute(self.node, "N", 0), attribute(self.node, "K", 0), bits
        if self.node.op_type == "GatherBlockQuantized" and self.value.dtype == ir.DataType.UINT8:
            *outer, taken = _array(self.value).shape
            return math.prod(outer), taken * 8 // bits, bits
        return None

    def _unpacked(self, stored: NDArray[Any], count: int, length: int, bits: int) -> NDArray[Any]:
        """Return real values of shape (count, length)."""
        rows, zeros = unpack(stored.reshape(count, -1), bits, length).astype(np.float32), self.zero_points
        assert zeros is not None
        rows = rows - np.repeat(zeros.astype(np.float32), self.block_size, 1)[:, :length]
        if self.scale is not None:
            rows = rows * np.repeat(_array(self.scale).reshape(count, -1), self.block_size, 1)[:, :length]
        return rows


@dataclass(frozen=True)
class WeightMatch:
    """Two nodes whose weights are alike.

    Args:
        before: The weight in the first model.
        after: That in the second.
        cosine: How alike, by a sample of their elements.
        part: Which part of the second it is, from 0, if that holds several.
        parts: How many parts the second has.

    """

    before: Stored
    after: Stored
    cosine: float
    part: int = 0
    parts: int = 1

    @property
    def counterpart(self) -> NDArray[Any]:
        """The second weight's real values in the first one's shape."""
        ours, shape = self.after.real, self.before.real.shape
        return next(
            array for part, parts, array in _forms(ours, shape) if (part, parts) == (self.part, self.parts)
        )


def stored_weights(flat: Flat) -> list[Stored]:
    """Return the weights of products, attention and tables, in the order of the nodes."""
    return [found for node in flat.nodes if _may_have(node) for found in _stored(node)]


def bits_per_weight(weights: Sequence[Stored]) -> float | None:
    """Return the bits in the file for each element of these weights, scales and zero points included.

    A tensor that several nodes read counts once. None if there is no weight.
    """
    elements = {id(one.value): one.size for one in weights}
    tensors = {
        id(value): value for one in weights for value in (one.value, one.scale, one.zero_point) if value
    }
    stored = sum(value.const_value.nbytes for value in tensors.values() if value.const_value is not None)
    return 8 * stored / sum(elements.values()) if elements else None


def match_weights(before: Sequence[Stored], after: Sequence[Stored]) -> list[WeightMatch]:
    """Pair each weight of ``before`` with the one of ``after`` that is most like it.

    A weight of ``after`` is given once, unless it holds several, as one of query, key and value does.
    Among equals, as tied weights are, the order of the nodes decides. What is like nothing is compared once
    more without the scales of channels.
    """
    chosen = _best(before, after, [found for one in _groups(before, after, _plain) for found in one])
    left = [{id(getattr(match, side)) for match in chosen} for side in ("before", "after")]
    ours, theirs = (
        [one for one in weights if id(one) not in known]
        for weights, known in zip((before, after), left, strict=True)
    )
    chosen += _best(ours, theirs, [found for one in _groups(ours, theirs, _scaled) for found in one])
    order = {id(stored): place for place, stored in enumerate(before)}
    return sorted(chosen, key=lambda match: order[id(match.before)])


def _best(
    before: Sequence[Stored], after: Sequence[Stored], candidates: list[WeightMatch]
) -> list[WeightMatch]:
    """Choose the pairs that are most alike, each weight once."""
    order_a = {id(stored): place for place, stored in enumerate(before)}
    order_b = {id(stored): place for place, stored in enumerate(after)}
    candidates.sort(key=lambda m: (-round(m.cosine, 6), order_a[id(m.before)], order_b[id(m.after)], m.part))
    taken_a, taken_b = set[int](), set[tuple[int, int]]()
    chosen = []
    for match in candidates:
        place = id(match.after), match.part
        if id(match.before) not in taken_a and place not in taken_b:
            taken_a.add(id(match.before))
            taken_b.add(place)
            chosen.append(match)
    return chosen


def _plain(array: NDArray[Any], stored: Stored) -> NDArray[Any]:
    del stored
    return array


def _scaled(array: NDArray[Any], stored: Stored) -> NDArray[Any]:
    """Return ``array`` without its channels' scales, or nothing to compare where a channel has too little."""
    axis = stored.channel_axis
    few = array.size < SMALLEST_CHANNEL * array.shape[axis]
    return np.zeros(array.shape) if few else by_channel(array, axis)


def _groups(
    before: Sequence[Stored], after: Sequence[Stored], seen: Callable[[NDArray[Any], Stored], NDArray[Any]]
) -> Iterator[list[WeightMatch]]:
    """Yield, for each shape, the pairs that are alike once they are ``seen`` in a certain way."""
    shapes: dict[tuple[int, ...], list[Stored]] = defaultdict(list)
    for stored in before:
        shapes[stored.real.shape].append(stored)
    for shape, ours in shapes.items():
        samples = np.stack([sample_of(seen(stored.real, stored)) for stored in ours])
        for other in after:
            for part, parts, array in _forms(other.real, shape):
                cosines = samples @ sample_of(seen(array, ours[0]))
                yield [
                    WeightMatch(stored, other, float(cosine), part, parts)
                    for stored, cosine in zip(ours, cosines, strict=True)
                    if cosine >= ALIKE
                ]


def _forms(array: NDArray[Any], shape: tuple[int, ...]) -> Iterator[tuple[int, int, NDArray[Any]]]:
    """Yield what of ``array`` may be a weight of ``shape``, with its place and how many places there are."""
    if array.shape == shape:
        yield 0, 1, array
    if array.ndim != 2 or len(shape) != 2:
        if array.size == np.prod(shape) and array.shape != shape:
            yield 0, 1, array.reshape(shape)
        return
    if array.T.shape == shape:
        yield (0, 1, array.T) if array.shape != shape else (1, 1, array.T)
    rows, columns = shape
    if array.shape[0] == rows and array.shape[1] > columns and array.shape[1] % columns == 0:
        parts = array.shape[1] // columns
        yield from ((place, parts, part) for place, part in enumerate(np.split(array, parts, 1)))


def _may_have(node: ir.Node) -> bool:
    return is_product(node) or node.op_type in _READS_WEIGHTS


def _stored(node: ir.Node) -> Iterator[Stored]:
    if node.op_type == "Attention" and node.domain != "com.microsoft":
        return
    place, scale_at, zero_at = _PLACES.get(node.op_type, (1, None, None))
    value = input_of(node, place)
    found = None if value is None else _origin(node, value, scale_at, zero_at)
    if found is not None and len(found.value.const_value.shape) >= 2:  # type: ignore[union-attr]
        yield found


def _origin(node: ir.Node, value: ir.Value, scale_at: int | None, zero_at: int | None) -> Stored | None:
    """Return the weight behind nodes that move, quantize or dequantize it; None if it is computed."""
    while value.const_value is None:
        maker = value.producer()
        if maker is None or not maker.inputs or maker.inputs[0] is None:
            return None
        found = read_dequantize(maker)
        if found is not None and found.stored.const_value is not None:
            return _dequantized(node, found)
        if maker.op_type not in _MOVERS | CONVERTERS:
            return None
        value = maker.inputs[0]
    if node.op_type == "Gather":
        return _looked_up(node, value)
    if value.dtype is not None and value.dtype.is_floating_point():
        return Stored(node, value)
    scale, zero = (None if at is None else _constant(input_of(node, at)) for at in (scale_at, zero_at))
    axis = 0 if family_of(node) == "Conv" else -1
    return Stored(node, value, scale, zero, axis, attribute(node, "block_size", _BLOCKS.get(node.op_type, 0)))


def _looked_up(node: ir.Node, table: ir.Value) -> Stored:
    """Return a table whose rows are dequantized, if they are, once they have been looked up."""
    readers = [reader for reader, _ in node.outputs[0].uses()]
    found = read_dequantize(readers[0]) if len(readers) == 1 else None
    if found is None:
        return Stored(node, table)
    return Stored(node, table, _constant(found.scale), _constant(found.zero_point))


def _dequantized(node: ir.Node, found: Quantized) -> Stored:
    return Stored(
        node=node,
        value=found.stored,
        scale=_constant(found.scale),
        zero_point=_constant(found.zero_point),
        axis=found.axis,
        block_size=found.block_size or 0,
        dequantized=True,
    )


def _constant(value: ir.Value | None) -> ir.Value | None:
    return value if value is not None and value.const_value is not None else None


def _array(value: ir.Value) -> NDArray[Any]:
    tensor = value.const_value
    assert tensor is not None
    return tensor.numpy()
