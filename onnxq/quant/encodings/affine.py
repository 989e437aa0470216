"""Affine encodings: integers in even steps, with a zero point.

``q = clamp(round_half_even(x / scale) + zero_point)`` and ``x ≈ scale * (q - zero_point)``, as ONNX's
QuantizeLinear and DequantizeLinear define them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Self

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from onnxq.quant.encodings.base import Encoding, Float32, FloatArray, Stored, usable_scale


@dataclass(frozen=True, eq=False)
class Affine(Encoding):
    """Integers of any width, per tensor, per channel or per block."""

    dtypes: ClassVar = {
        "int2": np.dtype(ml_dtypes.int2),
        "uint2": np.dtype(ml_dtypes.uint2),
        "int4": np.dtype(ml_dtypes.int4),
        "uint4": np.dtype(ml_dtypes.uint4),
        "int8": np.dtype(np.int8),
        "uint8": np.dtype(np.uint8),
        "int16": np.dtype(np.int16),
        "uint16": np.dtype(np.uint16),
        "int32": np.dtype(np.int32),
    }
    integers = True

    @classmethod
    def limits_of(cls, dtype: str, limit: int | None = None) -> tuple[int, int]:
        """Return the smallest and the largest integer of ``dtype`` within -limit..limit."""
        low, high = _range_of(cls.dtypes[dtype])
        return (low, high) if limit is None else (max(low, -limit), min(high, limit))

    zero_points_of = limits_of

    @property
    def bits(self) -> int:
        """The width of the integers."""
        low, high = self.limits_of(self.dtype)
        return (high - low).bit_length()

    @classmethod
    def covering(
        cls,
        low: FloatArray | float,
        high: FloatArray | float,
        dtype: str,
        axis: int | None = None,
        block_size: int | None = None,
        limit: int | None = None,
    ) -> Self:
        """Return the asymmetric encoding that covers ``low``..``high``; both are moved so as to hold zero.

        Source:
            Nagel et al., 2021, arXiv:2106.08295, section 2.

        """
        least, most = cls.limits_of(dtype, limit)
        low = np.minimum(np.asarray(low, np.float64), 0)
        high = np.maximum(np.asarray(high, np.float64), 0)
        scale = usable_scale((high - low) / (most - least))
        zero_point = np.clip(np.rint(least - low / scale), least, most)
        return cls(scale, zero_point.astype(np.int32), dtype, axis, block_size, limit)

    def _quantized(self, values: FloatArray) -> Stored:
        steps = np.asarray(values / self._spread(self.scale, values.shape))
        np.rint(steps, out=steps)
        zero = self._counted_zero
        if zero.any() or zero.dtype == np.float64:
            steps = np.asarray(steps + self._spread(zero, values.shape))
        np.clip(steps, *self.limits, out=steps)
        return _integers(steps, self.dtypes[self.dtype], self.bits)

    def dequantize(self, stored: Stored) -> Float32:
        """Return the real values of integers."""
        zero = self._spread(self._counted_zero, stored.shape)
        steps = stored.astype(zero.dtype) - zero
        values: Float32 = (steps * self._spread(self.scale, stored.shape)).astype(np.float32)
        return values

    @property
    def _counted_zero(self) -> FloatArray:
        """The zero point in a float type that holds every step; beyond 24 bits, float32 saturates as well."""
        return self.zero_point.astype(np.float64 if self.dtype == "int32" else np.float32)

    def snap(self, values: FloatArray, scale: Float32, zero_point: NDArray[np.int32]) -> FloatArray:
        """Return the nearest multiples of the scales within the limits."""
        least, most = self.limits
        low, high = scale * (least - zero_point), scale * (most - zero_point)
        snapped: FloatArray = np.clip(np.rint(values / scale) * scale, low, high)
        return snapped

    def step(self, values: FloatArray) -> FloatArray:
        """Return the scale of each value."""
        return self._spread(self.scale, values.shape)


@cache
def _range_of(dtype: np.dtype[Any]) -> tuple[int, int]:
    """Return the smallest and the largest integer of a type."""
    info: Any = ml_dtypes.iinfo(dtype)  # type: ignore[no-untyped-call]
    return int(info.min), int(info.max)


def _integers(steps: FloatArray, dtype: np.dtype[Any], bits: int) -> Stored:
    """Convert to what is stored; NumPy takes four times as long for types narrower than a byte."""
    if bits >= 8:
        whole: Stored = steps.astype(dtype)
        return whole
    narrow = steps.astype(np.int8).view(np.uint8) & np.uint8(2**bits - 1)  # ml_dtypes leaves the rest zero
    return narrow.view(dtype)
