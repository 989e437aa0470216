"""What an encoding is: how the real values of one tensor become narrow numbers, and back."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from onnxq.quant.encodings.blocks import Blocks
from onnxq.quant.encodings.layout import Channels, Layout, Whole

FloatArray = NDArray[np.floating[Any]]
Float32 = NDArray[np.float32]
Stored = NDArray[Any]
"""What is stored: an array of one of ``DTYPES``."""

PIECE = 1 << 19
"""Bytes of values that are quantized at a time: with what is computed of them they fit a cache of some MB."""


@dataclass(frozen=True, eq=False)
class Encoding(ABC):
    """Scale, zero point, dtype, axis and block size of one quantized tensor.

    Its class is the family: what the stored numbers are and how far apart they lie. All else is asked of it,
    so that nobody has to look at the dtype.

    Args:
        scale: Shape () per tensor or (C,) per channel; per block the tensor's own, with the length n of
            ``axis`` divided into ceil(n / block_size) blocks; float32, > 0; real units for each stored 1.
        zero_point: The shape of ``scale``; int32; the stored number that stands for zero.
        dtype: A key of ``dtypes``.
        axis: The channel axis for scales of shape (C,), or the axis that is cut into blocks; None per
            tensor.
        block_size: How many neighbours along ``axis`` share a scale; the last block may be shorter.
        limit: Stored numbers stay within -limit..limit, where all of ``dtype``'s are more than a kernel adds
            up without saturation; None for all.

    Raises:
        ValueError: Shapes, limits or signs do not fit together.

    """

    dtypes: ClassVar[Mapping[str, np.dtype[Any]]]
    """The types of the family, by ONNX's names."""
    integers: ClassVar[bool]
    """Whether it stores integers, in even steps: they can be limited, counted, and added up without error."""

    scale: NDArray[np.float32]
    zero_point: NDArray[np.int32]
    dtype: str
    axis: int | None = None
    block_size: int | None = None
    limit: int | None = None

    @classmethod
    @abstractmethod
    def limits_of(cls, dtype: str, limit: int | None = None) -> tuple[int, int]:
        """Return the smallest and the largest number that ``dtype`` stores within -limit..limit."""

    @classmethod
    @abstractmethod
    def zero_points_of(cls, dtype: str, limit: int | None = None) -> tuple[int, int]:
        """Return the smallest and the largest zero point."""

    @property
    @abstractmethod
    def bits(self) -> int:
        """How many bits a stored number takes."""

    @classmethod
    @abstractmethod
    def covering(
        cls,
        low: FloatArray | float,
        high: FloatArray | float,
        dtype: str,
        axis: int | None = None,
        block_size: int | None = None,
        limit: int | None = None,
    ) -> Self:
        """Return the encoding that covers ``low``..``high`` and has an exact zero.

        Args:
            low: Smallest value, shape () or (C,), or one for each block.
            high: Largest value, the same shape.
            dtype: A key of ``dtypes``.
            axis: The channel axis if ``low`` has shape (C,), or the axis that is cut into blocks.
            block_size: The length of a block.
            limit: The largest magnitude that is stored, if not the type's.

        """

    @classmethod
    def symmetric(
        cls,
        largest: FloatArray | float,
        dtype: str,
        axis: int | None = None,
        block_size: int | None = None,
        limit: int | None = None,
    ) -> Self:
        """Return the encoding that covers ``-largest``..``largest``, with its zero point at 0.

        Args:
            largest: The largest magnitude, shape () or (C,), or one for each block.
            dtype: A key of ``dtypes``.
            axis: As in ``covering``.
            block_size: As in ``covering``.
            limit: As in ``covering``.

        """
        scale = usable_scale(np.asarray(largest, np.float64) / cls.limits_of(dtype, limit)[1])
        return cls(scale, np.zeros(scale.shape, np.int32), dtype, axis, block_size, limit)

    def quantize(self, values: FloatArray) -> Stored:
        """Return what is stored of ``values``, any shape that has ``axis``.

        It is computed piece by piece, so that what lies in between stays in the processor's cache.
        """
        if values.nbytes <= PIECE:
            return self._quantized(values)
        stored = np.empty(values.shape, self.dtypes[self.dtype])
        for start, piece in self.quantized_pieces(values):
            stored[start : start + len(piece)] = piece
        return stored

    def quantized_pieces(self, values: FloatArray) -> Iterator[tuple[int, Stored]]:
        """Yield what is stored of some rows of ``values`` at a time, with the number of the first.

        Args:
            values: At least one axis; a row is all that has one index of axis 0.

        """
        least = self.layout.rows_apart(values.ndim)
        row = max(values.nbytes // max(len(values), 1), 1)
        step = max(PIECE // row // least, 1) * least
        for start in range(0, len(values), step):
            rows = values[start : start + step]
            yield start, self._of_rows(start, start + len(rows), values.ndim)._quantized(rows)

    def _of_rows(self, start: int, stop: int, rank: int) -> Self:
        """Return the encoding that these rows of a tensor of so many axes have."""
        part = self.layout.rows(start, stop, rank)
        if part is None:
            return self
        return replace(self, scale=self.scale[part], zero_point=self.zero_point[part])

    @abstractmethod
    def _quantized(self, values: FloatArray) -> Stored:
        """Return what is stored of ``values``, all at once."""

    @abstractmethod
    def dequantize(self, stored: Stored) -> Float32:
        """Return the real values of what ``quantize`` gave, as float32."""

    @abstractmethod
    def snap(self, values: FloatArray, scale: Float32, zero_point: NDArray[np.int32]) -> FloatArray:
        """Return the nearest values on the grid, in the type of ``values``.

        Args:
            values: Any shape, and any part of the tensor.
            scale: The scale of each value, as ``spread`` gives it.
            zero_point: The zero point of each value.

        """

    @abstractmethod
    def step(self, values: FloatArray) -> FloatArray:
        """Return how far apart the grid's values lie around each of ``values``."""

    def __post_init__(self) -> None:
        """Make both arrays read-only and check that they fit."""
        object.__setattr__(self, "scale", _frozen(self.scale, np.dtype(np.float32)))
        object.__setattr__(self, "zero_point", _frozen(self.zero_point, np.dtype(np.int32)))
        if self.scale.shape != self.zero_point.shape:
            raise ValueError(f"scale has shape {self.scale.shape}, zero point {self.zero_point.shape}")
        if not self.layout.holds(self.scale.ndim):
            raise ValueError(f"axis {self.axis} does not fit a scale of shape {self.scale.shape}")
        if not (np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise ValueError("every scale must be finite and positive")
        most = self.limits_of(self.dtype)[1] if self.integers else 0
        if self.limit is not None and not 0 < self.limit <= most:
            raise ValueError(f"{self.dtype} cannot be limited to {self.limit}")
        low, high = self.zero_points_of(self.dtype, self.limit)
        if (self.zero_point < low).any() or (self.zero_point > high).any():
            raise ValueError(f"a zero point lies outside {self.dtype}'s {low}..{high}")

    def __eq__(self, other: object) -> bool:
        """Compare by value, bit for bit, by what tells grids apart."""
        return isinstance(other, Encoding) and self._key == other._key

    def __hash__(self) -> int:
        """Agree with equality."""
        return hash(self._key)

    @cached_property
    def _key(self) -> tuple[object, ...]:
        return type(self), self.grid, *self.form

    @cached_property
    def grid(self) -> str:
        """The SHA-256 of scale and zero point, as 64 hexadecimal digits."""
        digest = hashlib.sha256(np.ascontiguousarray(self.scale).data)
        digest.update(np.ascontiguousarray(self.zero_point).data)
        return digest.hexdigest()

    @property
    def form(self) -> tuple[object, ...]:
        """All but the numbers: what tells it, besides them, from any other encoding."""
        return self.scale.shape, self.dtype, self.axis, self.block_size, self.limit

    @cached_property
    def layout(self) -> Layout:
        """Which values share a scale."""
        if self.axis is None:
            if self.block_size is not None:
                raise ValueError(f"axis None does not fit a scale of shape {self.scale.shape}")
            return Whole()
        return Channels(self.axis) if self.block_size is None else Blocks(self.axis, self.block_size)

    def fits(self, shape: Sequence[int | None]) -> bool:
        """Tell whether a tensor of this shape has as many channels or blocks; None is an unknown length."""
        return self.layout.fits(self.scale.shape, shape)

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and the largest number in use."""
        return self.limits_of(self.dtype, self.limit)

    @property
    def low(self) -> Float32:
        """The smallest real value on the grid; the shape of ``scale``."""
        return ((self.limits[0] - self.zero_point) * self.scale).astype(np.float32)

    @property
    def high(self) -> Float32:
        """The largest real value on the grid; the shape of ``scale``."""
        return ((self.limits[1] - self.zero_point) * self.scale).astype(np.float32)

    @property
    def stored_zero(self) -> Stored:
        """The zero point as it is stored, in ``dtype``."""
        return self.zero_point.astype(self.dtypes[self.dtype])

    def restored(self, values: FloatArray) -> Float32:
        """Return what is left of ``values`` once they are quantized and dequantized."""
        return self.dequantize(self.quantize(values))

    def spread(self, shape: tuple[int, ...]) -> tuple[Float32, NDArray[np.int32]]:
        """Return scale and zero point for each value of a tensor of ``shape``."""
        scale, zero_point = (self._spread(part, shape) for part in (self.scale, self.zero_point))
        return np.broadcast_to(scale, shape), np.broadcast_to(zero_point, shape)

    def error_bound(self, values: FloatArray) -> Float32:
        """Bound ``|restored(x) - x|`` for each value: half a step plus what is cut off."""
        below = self._spread(self.low, values.shape) - values
        above = values - self._spread(self.high, values.shape)
        cut_off = np.maximum(np.maximum(below, above), 0)
        return np.asarray(self.step(values) / 2 + cut_off, np.float32)

    def to_fields(self) -> dict[str, Any]:
        """Return the fields of an ``# encode`` line; those that are None are left out there."""
        return {
            "scale": self.scale,
            "zero_point": self.zero_point,
            "dtype": self.dtype,
            "axis": self.axis,
            "block": self.block_size,
            "limit": self.limit,
        }

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """Read what ``to_fields`` wrote, arrays as lists.

        Raises:
            ValueError: They do not fit together; so may be KeyError, TypeError.

        """
        return cls(
            np.asarray(fields["scale"], np.float32),
            np.asarray(fields["zero_point"], np.int32),
            fields["dtype"],
            *(fields.get(name) for name in ("axis", "block", "limit")),
        )

    def _spread(self, array: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
        """Shape ``array``, which is like ``scale``, so that it broadcasts against a tensor of ``shape``."""
        return self.layout.spread(array, shape)


def usable_scale(scale: NDArray[np.float64]) -> Float32:
    """Round to float32; a tensor of zeros gets the scale 1, and tiny ranges the smallest normal number."""
    tiny = np.finfo(np.float32).tiny
    return np.where(scale > 0, np.maximum(scale, tiny), 1).astype(np.float32)


def _frozen(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    copy = np.array(array, dtype=dtype)
    copy.flags.writeable = False
    return copy
