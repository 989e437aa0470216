"""Float8 encodings: ``q = x / scale``, clamped and rounded to a float type of 8 bits, ties to even.

Their grids are finer near zero, and symmetric: there is no zero point but 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from onnxq.quant.encodings.base import Encoding, Float32, FloatArray, Stored


@dataclass(frozen=True, eq=False)
class Float8(Encoding):
    """Numbers of float8e4m3fn, per tensor, per channel or per block; a scale is the largest value / 448."""

    dtypes: ClassVar = {"float8e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn)}
    integers = False

    @classmethod
    def limits_of(cls, dtype: str, limit: int | None = None) -> tuple[int, int]:
        """Return the smallest and the largest finite number."""
        info = _info(cls.dtypes[dtype])
        return int(info.min), int(info.max)

    @classmethod
    def zero_points_of(cls, dtype: str, limit: int | None = None) -> tuple[int, int]:
        """Return 0 and 0."""
        return 0, 0

    @property
    def bits(self) -> int:
        """8."""
        return 8

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
        """Return the encoding that covers the larger magnitude of ``low`` and ``high`` on both sides."""
        return cls.symmetric(np.maximum(np.abs(low), np.abs(high)), dtype, axis, block_size, limit)

    def _quantized(self, values: FloatArray) -> Stored:
        return self._rounded(values / self._spread(self.scale, values.shape))

    def dequantize(self, stored: Stored) -> Float32:
        """Return the real values of stored numbers."""
        values: Float32 = stored.astype(np.float32) * self._spread(self.scale, stored.shape)
        return values

    def snap(self, values: FloatArray, scale: Float32, zero_point: NDArray[np.int32]) -> FloatArray:
        """Return the nearest of the type's numbers, times the scales."""
        return self._rounded(values / scale).astype(values.dtype) * scale

    def step(self, values: FloatArray) -> FloatArray:
        """Return the type's eps of each value, and among the smallest values the smallest of them."""
        info = _info(self.dtypes[self.dtype])
        smallest = float(info.smallest_subnormal) * self._spread(self.scale, values.shape)
        return np.maximum(float(info.eps) * np.abs(values), smallest)

    def _rounded(self, numbers: FloatArray) -> Stored:
        rounded: Stored = np.clip(numbers, *self.limits).astype(self.dtypes[self.dtype])
        return rounded


def _info(dtype: np.dtype[Any]) -> Any:
    return ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
