"""Encodings: how the real values of one tensor become integers or float8, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.integer[Any]]

DTYPES: dict[str, np.dtype[Any]] = {
    "int2": np.dtype(ml_dtypes.int2),
    "uint2": np.dtype(ml_dtypes.uint2),
    "int4": np.dtype(ml_dtypes.int4),
    "uint4": np.dtype(ml_dtypes.uint4),
    "int8": np.dtype(np.int8),
    "uint8": np.dtype(np.uint8),
    "int16": np.dtype(np.int16),
    "uint16": np.dtype(np.uint16),
    "int32": np.dtype(np.int32),
    "float8e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
}
"""Types of QuantizeLinear and DequantizeLinear, by ONNX's names."""
FLOATS = frozenset({"float8e4m3fn"})
"""Those that are no integers: their grids are finer near zero, and symmetric."""


def integer_limits(dtype: str, limit: int | None = None) -> tuple[int, int]:
    """Return the smallest and the largest integer of ``dtype``, a key of ``DTYPES`` outside ``FLOATS``.

    With ``limit``, those beyond -limit..limit are not in use.
    """
    info: Any = ml_dtypes.iinfo(DTYPES[dtype])  # type: ignore[no-untyped-call]
    low, high = int(info.min), int(info.max)
    return (low, high) if limit is None else (max(low, -limit), min(high, limit))


def limits(dtype: str, limit: int | None = None) -> tuple[int, int]:
    """Return the smallest and the largest number of ``dtype``, any key of ``DTYPES``, as above."""
    if dtype not in FLOATS:
        return integer_limits(dtype, limit)
    info = _float_info(dtype)
    return int(info.min), int(info.max)


def _most(dtype: str) -> int:
    """Return the largest limit that an encoding can have; floats take none."""
    return 0 if dtype in FLOATS else integer_limits(dtype)[1]


def _float_info(dtype: str) -> Any:
    return ml_dtypes.finfo(DTYPES[dtype])  # type: ignore[no-untyped-call]


@dataclass(frozen=True, eq=False)
class Encoding:
    """Scale, zero point, dtype, axis and block size of one quantized tensor.

    ``q = clamp(round_half_even(x / scale) + zero_point)`` and ``x ≈ scale * (q - zero_point)``, as
    ONNX's QuantizeLinear and DequantizeLinear define them. In float8 ``q`` is ``x / scale``, clamped and
    rounded to the type, ties to even.

    Args:
        scale: Shape () per tensor or (C,) per channel; per block the tensor's own, with the length n of
            ``axis`` divided into ceil(n / block_size) blocks; float32, > 0; real units per integer step.
        zero_point: The shape of ``scale``; int32; within the limits of ``dtype``, and 0 in float8.
        dtype: A key of ``DTYPES``.
        axis: The channel axis for scales of shape (C,), or the axis that is cut into blocks; None per
            tensor.
        block_size: How many neighbours along ``axis`` share a scale; the last block may be shorter.
        limit: Integers stay within -limit..limit, where all of ``dtype``'s are more than a kernel adds up
            without saturation; None for all.

    Raises:
        ValueError: Shapes, limits or signs do not fit together.

    """

    scale: NDArray[np.float32]
    zero_point: NDArray[np.int32]
    dtype: str = "uint8"
    axis: int | None = None
    block_size: int | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        """Make both arrays read-only and check that they fit."""
        object.__setattr__(self, "scale", _frozen(self.scale, np.dtype(np.float32)))
        object.__setattr__(self, "zero_point", _frozen(self.zero_point, np.dtype(np.int32)))
        if self.dtype not in DTYPES:
            raise ValueError(f"unknown dtype {self.dtype!r}; choose from {', '.join(DTYPES)}")
        if self.scale.shape != self.zero_point.shape:
            raise ValueError(f"scale has shape {self.scale.shape}, zero point {self.zero_point.shape}")
        if self.block_size is not None and self.block_size < 1:
            raise ValueError(f"a block of {self.block_size} is not possible")
        if not self._axis_fits():
            raise ValueError(f"axis {self.axis} does not fit a scale of shape {self.scale.shape}")
        if not (np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise ValueError("every scale must be finite and positive")
        if self.limit is not None and not 0 < self.limit <= _most(self.dtype):
            raise ValueError(f"{self.dtype} cannot be limited to {self.limit}")
        low, high = (0, 0) if self.dtype in FLOATS else integer_limits(self.dtype, self.limit)
        if (self.zero_point < low).any() or (self.zero_point > high).any():
            raise ValueError(f"a zero point lies outside {self.dtype}'s {low}..{high}")

    def __eq__(self, other: object) -> bool:
        """Compare by value, bit for bit."""
        return isinstance(other, Encoding) and self._key() == other._key()

    def __hash__(self) -> int:
        """Agree with equality."""
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        arrays = self.scale.shape, self.scale.tobytes(), self.zero_point.tobytes()
        return *arrays, self.dtype, self.axis, self.block_size, self.limit

    def _axis_fits(self) -> bool:
        if self.block_size is None:
            return self.scale.ndim == (self.axis is not None)
        return self.axis is not None and -self.scale.ndim <= self.axis < self.scale.ndim

    def fits(self, shape: Sequence[int | None]) -> bool:
        """Tell whether a tensor of this shape has as many channels or blocks; None is an unknown length."""
        if self.axis is None:
            return True
        if not -len(shape) <= self.axis < len(shape):
            return False
        if self.block_size is None:
            return shape[self.axis] in (None, self.scale.size)
        divided = list(shape)
        length = divided[self.axis]
        divided[self.axis] = None if length is None else -(-length // self.block_size)
        return len(divided) == self.scale.ndim and all(
            length in (None, count) for length, count in zip(divided, self.scale.shape, strict=True)
        )

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and the largest number in use."""
        return limits(self.dtype, self.limit)

    @property
    def low(self) -> NDArray[np.float32]:
        """The smallest real value on the grid; the shape of ``scale``."""
        return ((self.limits[0] - self.zero_point) * self.scale).astype(np.float32)

    @property
    def high(self) -> NDArray[np.float32]:
        """The largest real value on the grid; the shape of ``scale``."""
        return ((self.limits[1] - self.zero_point) * self.scale).astype(np.float32)

    def quantize(self, values: FloatArray) -> IntArray:
        """Return the integers of ``values``, any shape that has ``axis``; or their numbers in float8."""
        low, high = self.limits
        steps = values / self._spread(self.scale, values.shape)
        if self.dtype not in FLOATS:
            steps = np.rint(steps)
            steps = steps + self._spread(self._counted_zero, values.shape)
        integers: IntArray = np.clip(steps, low, high).astype(DTYPES[self.dtype])
        return integers

    def dequantize(self, integers: IntArray) -> NDArray[np.float32]:
        """Return the real values of ``integers``, or of numbers in float8, as float32."""
        zero = self._spread(self._counted_zero, integers.shape)
        steps = integers.astype(zero.dtype) - zero
        values: NDArray[np.float32] = (steps * self._spread(self.scale, integers.shape)).astype(np.float32)
        return values

    @property
    def _counted_zero(self) -> NDArray[np.floating[Any]]:
        """The zero point in a float type that holds every step; beyond 24 bits, float32 saturates as well."""
        return self.zero_point.astype(np.float64 if self.dtype == "int32" else np.float32)

    def spread(self, shape: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Return scale and zero point for each value of a tensor of ``shape``."""
        scale, zero_point = self._spread(self.scale, shape), self._spread(self.zero_point, shape)
        return np.broadcast_to(scale, shape), np.broadcast_to(zero_point, shape)

    def error_bound(self, values: FloatArray) -> NDArray[np.float32]:
        """Bound ``|dequantize(quantize(x)) - x|`` for each value: half a step plus what is cut off.

        A step of float8 is its eps of the value, and among the smallest values the smallest of them.
        """
        scale = self._spread(self.scale, values.shape)
        if self.dtype in FLOATS:
            info = _float_info(self.dtype)
            scale = np.maximum(float(info.eps) * np.abs(values), float(info.smallest_subnormal) * scale)
        below = self._spread(self.low, values.shape) - values
        above = values - self._spread(self.high, values.shape)
        bound: NDArray[np.float32] = (scale / 2 + np.maximum(np.maximum(below, above), 0)).astype(np.float32)
        return bound

    def _spread(self, array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """Shape ``array``, which is like ``scale``, so that it broadcasts against a tensor of ``shape``."""
        if self.axis is None:
            return array
        if self.block_size is not None:
            elements = np.arange(shape[self.axis]) // self.block_size
            return np.take(array, elements, axis=self.axis)
        ones = [1] * len(shape)
        ones[self.axis] = -1
        return array.reshape(ones)


def _frozen(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    copy = np.array(array, dtype=dtype)
    copy.flags.writeable = False
    return copy


def affine_encoding(
    low: FloatArray | float,
    high: FloatArray | float,
    dtype: str = "uint8",
    axis: int | None = None,
    block_size: int | None = None,
    limit: int | None = None,
) -> Encoding:
    """Return the asymmetric encoding that covers ``low``..``high`` and has an exact zero.

    Args:
        low: Smallest value, shape () or (C,), or one for each block; raised to at most 0 so that zero is
            on the grid.
        high: Largest value, the same shape; at least 0 for the same reason.
        dtype: A key of ``DTYPES``, but none of ``FLOATS``.
        axis: The channel axis if ``low`` has shape (C,), or the axis that is cut into blocks.
        block_size: The length of a block.
        limit: The largest magnitude of an integer, if not the type's; see ``Encoding``.

    Source:
        Nagel et al., 2021, arXiv:2106.08295, section 2.

    """
    least, most = integer_limits(dtype, limit)
    low = np.minimum(np.asarray(low, np.float64), 0)
    high = np.maximum(np.asarray(high, np.float64), 0)
    scale = _usable_scale((high - low) / (most - least))
    zero_point = np.clip(np.rint(least - low / scale), least, most)
    return Encoding(scale, zero_point.astype(np.int32), dtype, axis, block_size, limit)


def symmetric_encoding(
    largest: FloatArray | float,
    dtype: str = "int8",
    axis: int | None = None,
    block_size: int | None = None,
    limit: int | None = None,
) -> Encoding:
    """Return the symmetric encoding that covers ``-largest``..``largest``.

    The most negative integer stays unused, so that the grid is the same on both sides of zero. An
    unsigned dtype gets its zero point at 0 and covers 0..``largest``. In float8e4m3fn the scale is
    ``largest / 448``.

    Args:
        largest: The largest magnitude, shape () or (C,), or one for each block.
        dtype: A key of ``DTYPES``.
        axis: The channel axis if ``largest`` has shape (C,), or the axis that is cut into blocks.
        block_size: The length of a block.
        limit: The largest magnitude of an integer, if not the type's; see ``Encoding``.

    """
    scale = _usable_scale(np.asarray(largest, np.float64) / limits(dtype, limit)[1])
    return Encoding(scale, np.zeros(scale.shape, np.int32), dtype, axis, block_size, limit)


def block_encoding(
    values: FloatArray, dtype: str, axis: int, block_size: int, *, symmetric: bool = False
) -> Encoding:
    """Return an encoding with a scale for each block that covers the block's values.

    Args:
        values: Any shape with at least one element along ``axis``.
        dtype: A key of ``DTYPES``.
        axis: The axis that is cut into blocks, 0 or more.
        block_size: The length of a block; the last may be shorter.
        symmetric: Whether zero is the integer 0, so that the grid is the same on both sides of it.

    """
    starts = np.arange(0, values.shape[axis], block_size)
    if symmetric:
        largest = np.maximum.reduceat(np.abs(values), starts, axis=axis)
        return symmetric_encoding(largest, dtype, axis, block_size)
    low = np.minimum.reduceat(values, starts, axis=axis)
    high = np.maximum.reduceat(values, starts, axis=axis)
    return affine_encoding(low, high, dtype, axis, block_size)


def _usable_scale(scale: NDArray[np.float64]) -> NDArray[np.float32]:
    """Round to float32; a tensor of zeros gets the scale 1, and tiny ranges the smallest normal number."""
    tiny = np.finfo(np.float32).tiny
    return np.where(scale > 0, np.maximum(scale, tiny), 1).astype(np.float32)
