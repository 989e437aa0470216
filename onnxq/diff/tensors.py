"""How tensors are stored and encoded, before and after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.analysis.quantized import read_quantize
from onnxq.diff.align import Alignment
from onnxq.diff.flat import QUANTIZERS, Flat
from onnxq.diff.numbering import constant_number
from onnxq.diff.weights import Stored
from onnxq.ir.module import name_of


@dataclass(frozen=True)
class Grid:
    """Scale and zero point of a tensor.

    Args:
        dtype: The integer type.
        granularity: ``tensor``, ``channel`` or ``block N``.
        axis: The channel axis, or the axis cut into blocks.
        scale: The smallest and the largest scale; None if it is computed at run time.
        zero_point: The smallest and the largest zero point; likewise.

    """

    dtype: str
    granularity: str
    axis: int | None
    scale: tuple[float, float] | None
    zero_point: tuple[int, int] | None


@dataclass(frozen=True)
class Tensor:
    """One tensor of one model.

    Args:
        name: Its name.
        dtype: The type in which it is stored, or in which nodes give it.
        shape: Its shape; names and ``?`` for sizes that are not fixed, None if nothing is known.
        bytes: What it takes in the file; 0 for what is computed.
        grid: Its encoding, if it has one.

    """

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None
    bytes: int
    grid: Grid | None


@dataclass(frozen=True)
class TensorPair:
    """The same tensor in both models.

    Args:
        kind: ``weight`` or ``activation``.
        before: In the first model.
        after: In the second.
        likeness: The cosine of a weight's real values and its counterpart's, by a sample; else None.
        differs: What differs: ``dtype``, ``shape``, ``encoding``, ``bytes``, ``values``.

    """

    kind: str
    before: Tensor
    after: Tensor
    likeness: float | None = None
    differs: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Initializer:
    """A constant that only one of the models has."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


def tensor_pairs(found: Alignment) -> list[TensorPair]:
    """Return the weights that are alike and the aligned values, in order, changed or not."""
    weights = [
        _pair(
            "weight",
            _weight(match.before),
            _weight(match.after),
            match.cosine,
            _equal(match.before, match.after),
        )
        for match in found.weights
    ]
    values = [
        _pair("activation", _activation(found.before, one), _activation(found.after, other), None, True)
        for one, other in found.values.items()
    ]
    return weights + values


def lonely_constants(found: Alignment) -> tuple[list[Initializer], list[Initializer]]:
    """Return the constants of the first model that the second lacks, and the reverse, the largest first."""
    kept = {match.before.value for match in found.weights}, {match.after.value for match in found.weights}
    ours = [value for value in found.before.constants if value not in kept[0]]
    theirs = [value for value in found.after.constants if value not in kept[1]]
    first, second = (Counter(map(constant_number, values)) for values in (ours, theirs))
    return _beyond(ours, first - second), _beyond(theirs, second - first)


def encoding_of(flat: Flat, value: ir.Value) -> Grid | None:
    """Return how ``value`` is quantized where it is read; None if it is not."""
    for node in flat.readers.get(value, ()):
        if node.op_type in QUANTIZERS and node.inputs[0] is value:
            return _quantizer_grid(node)
    return None


def stored_grid(stored: Stored) -> Grid | None:
    """Return the encoding of a weight; None if it holds real numbers."""
    dtype = stored.value.dtype
    if dtype is None or dtype.is_floating_point():
        return None
    scale = _span(stored.scale)
    zero = _extent(stored.zero_points) or ((0.0, 0.0) if stored.scale is not None else None)
    many = (
        stored.scale is not None
        and stored.scale.const_value is not None
        and stored.scale.const_value.size > 1
    )
    granularity = _granularity(stored.block_size, many)
    return Grid(_type(stored.value), granularity, stored.axis if many else None, scale, _whole(zero))


def _pair(kind: str, before: Tensor, after: Tensor, likeness: float | None, equal: bool) -> TensorPair:
    differs = [key for key in ("dtype", "shape", "bytes") if getattr(before, key) != getattr(after, key)]
    if None in (before.shape, after.shape) or (
        kind == "activation" and not _fixed_shapes_differ(before, after)
    ):
        differs = [key for key in differs if key != "shape"]
    if "?" in (before.dtype, after.dtype):
        differs = [key for key in differs if key != "dtype"]
    if before.grid != after.grid:
        differs.append("encoding")
    if not equal and not differs:
        differs.append("values")
    return TensorPair(kind, before, after, likeness, tuple(differs))


def _fixed_shapes_differ(before: Tensor, after: Tensor) -> bool:
    """Tell whether ranks differ, or sizes that both models fix."""
    ours, theirs = before.shape or (), after.shape or ()
    return len(ours) != len(theirs) or any(
        one != other for one, other in zip(ours, theirs, strict=True) if {type(one), type(other)} == {int}
    )


def _equal(before: Stored, after: Stored) -> bool:
    return constant_number(before.value) == constant_number(after.value)


def _weight(stored: Stored) -> Tensor:
    tensor = stored.value.const_value
    assert tensor is not None
    return Tensor(
        name_of(stored.value),
        _type(stored.value),
        tuple(tensor.shape.numpy()),
        tensor.nbytes,
        stored_grid(stored),
    )


def _activation(flat: Flat, value: ir.Value) -> Tensor:
    return Tensor(name_of(value), _type(value), shape_of(value), 0, encoding_of(flat, value))


def shape_of(value: ir.Value) -> tuple[int | str, ...] | None:
    """Return the sizes, ``?`` for those without a number or a name of their own; None if nothing is known."""
    if value.shape is None:
        return None
    known = (axis if isinstance(axis, int) else str(axis) for axis in value.shape)
    return tuple("?" if axis == "None" or str(axis).startswith("unk__") else axis for axis in known)


def _quantizer_grid(node: ir.Node) -> Grid | None:
    if node.op_type == "DynamicQuantizeLinear":
        return Grid("uint8", "tensor", None, None, None)
    found = read_quantize(node)
    if found is None:
        return None
    scale = found.scale.const_value
    return Grid(
        dtype=found.dtype,
        granularity=_granularity(found.block_size, many := scale is not None and scale.size > 1),
        axis=found.axis if many else None,
        scale=_span(found.scale),
        zero_point=_whole(_span(found.zero_point)) or (None if scale is None else (0, 0)),
    )


def _granularity(block_size: int | None, many: bool) -> str:
    return f"block {block_size}" if block_size else "channel" if many else "tensor"


def _span(value: ir.Value | None) -> tuple[float, float] | None:
    return None if value is None or value.const_value is None else _extent(value.const_value.numpy())


def _extent(array: NDArray[Any] | None) -> tuple[float, float] | None:
    if array is None or not array.size:
        return None
    numbers = array.astype(np.float64)
    return float(numbers.min()), float(numbers.max())


def _whole(span: tuple[float, float] | None) -> tuple[int, int] | None:
    return None if span is None else (int(span[0]), int(span[1]))


def _type(value: ir.Value) -> str:
    dtype = value.dtype or (value.const_value.dtype if value.const_value is not None else None)
    return "?" if dtype is None else dtype.name.lower()


def _beyond(values: list[ir.Value], surplus: Counter[str | None]) -> list[Initializer]:
    return sorted(_surplus(values, surplus), key=lambda one: (-one.bytes, one.name))


def _surplus(values: list[ir.Value], surplus: Counter[str | None]) -> Iterator[Initializer]:
    for value in values:
        number, tensor = constant_number(value), value.const_value
        if surplus[number] > 0 and tensor is not None:
            surplus[number] -= 1
            yield Initializer(name_of(value), _type(value), tuple(tensor.shape.numpy()), tensor.nbytes)
