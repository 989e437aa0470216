"""Twin uniform encodings: fine steps on one side of a border, coarse ones on the other.

What a Softmax gives is small nearly everywhere and near 1 in a few places; what a GELU gives is within -0.17
below zero and reaches far above. With k bits, one bit tells the side, and ``k - 1`` count its steps:

    T_k(x) = F * round(x / F)    on the fine side
             C * round(x / C)    on the coarse side, C = 2**exponent * F

The fine side is ``0 .. border`` for a Softmax, with the border at ``2**(k - 1) * F``, or
``-2**(k - 1) * F .. 0`` for a GELU. In ordinary integers, without a choice between two grids: ``x`` is
quantized finely and saturates at the border; what is left is quantized coarsely. That is T_k to the bit where
the border lies on the coarse grid (``exponent < k``), but for two places where the formula clamps though a
code is free: just below the border and, of a Softmax, at 1. There it is nearer to ``x``.

Source: Yuan et al., 2022, arXiv:2111.12293 (PTQ4ViT), section 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from onnxq.quant.encodings.affine import Affine
from onnxq.quant.encodings.base import Encoding, Float32, FloatArray, Stored

LEVELS = 128
"""Fine steps up to the border, with 8 bits."""
BELOW_ONE = 3
"""The border of a one-sided range that nothing else is known of lies at ``2**-BELOW_ONE`` of it."""


@dataclass(frozen=True, eq=False)
class Twin(Encoding):
    """Two grids, each with half of the codes; ``scale`` is the fine step.

    Args:
        exponent: The coarse step is ``2**exponent`` fine ones; 1 or more.
        levels: How many fine steps there are: ``2**(bits - 1)``. A ``zero_point`` of 0 puts them above zero,
            one of ``levels`` below.

    """

    dtypes: ClassVar = {"twin8": np.dtype(np.uint8)}
    integers = False
    exponent: int = 1
    levels: int = LEVELS

    def __post_init__(self) -> None:
        """Check what an encoding checks, and that the two grids are some."""
        if not 2 <= self.levels <= LEVELS or self.levels & (self.levels - 1):
            raise ValueError(f"{self.levels} fine steps are no power of two from 2 to {LEVELS}")
        if self.exponent < 1:
            raise ValueError(f"coarse steps of 2**{self.exponent} fine ones are no larger")
        super().__post_init__()
        if not np.isin(self.zero_point, (0, self.levels)).all():
            raise ValueError(f"a zero point is neither 0 nor {self.levels}")

    @classmethod
    def limits_of(cls, dtype: str, limit: int | None = None) -> tuple[int, int]:
        """Return 0 and the largest code of 8 bits."""
        return 0, 2 * LEVELS - 1

    @classmethod
    def zero_points_of(cls, dtype: str, limit: int | None = None) -> tuple[int, int]:
        """Return 0 and the largest code that ends a fine side."""
        return 0, LEVELS

    @property
    def bits(self) -> int:
        """The bits of a code."""
        return self.levels.bit_length()

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
        """Return the encoding that covers ``low``..``high``, finely below zero if there is anything."""
        low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
        if not low.any():
            return cls.above_zero(high, BELOW_ONE, LEVELS, axis, block_size)
        fine = Affine.covering(low, 0.0, "uint8", axis, block_size, LEVELS).scale
        steps = np.max(high / fine.astype(np.float64)) / (LEVELS - 1)
        exponent = max(1, int(np.ceil(np.log2(max(steps, 1)))))
        zeros = np.full(fine.shape, LEVELS, np.int32)
        return cls(fine, zeros, dtype, axis, block_size, exponent=exponent)

    @classmethod
    def above_zero(
        cls,
        high: FloatArray | float,
        exponent: int,
        levels: int = LEVELS,
        axis: int | None = None,
        block_size: int | None = None,
    ) -> Self:
        """Return the encoding of ``0``..``high`` with its border at ``2**-exponent`` of it, as for a Softmax.

        Args:
            high: The largest value, shape () or (C,), or one for each block.
            exponent: The coarse step is ``2**exponent`` fine ones.
            levels: How many of each reach from 0 to ``high``, and to the border.
            axis: As in ``Encoding.covering``.
            block_size: As in ``Encoding.covering``.

        """
        fine = Affine.covering(0.0, np.asarray(high) / 2.0**exponent, "uint8", axis, block_size, levels).scale
        zeros = np.zeros(fine.shape, np.int32)
        return cls(fine, zeros, "twin8", axis, block_size, exponent=exponent, levels=levels)

    @classmethod
    def symmetric(
        cls,
        largest: FloatArray | float,
        dtype: str,
        axis: int | None = None,
        block_size: int | None = None,
        limit: int | None = None,
    ) -> Self:
        """Return the encoding that covers as much on both sides; it has no symmetric one."""
        return cls.covering(-np.asarray(largest), largest, dtype, axis, block_size)

    @property
    def fine(self) -> Affine:
        """The fine grid, which saturates at the border."""
        return Affine(self.scale, self.zero_point, "uint8", self.axis, self.block_size, self.levels)

    @property
    def coarse(self) -> Affine:
        """The grid of what is left."""
        below_border = 0 if self.zero_point.any() else self.levels >> self.exponent
        zeros, most = np.zeros_like(self.zero_point), self.levels - max(below_border, 1)
        return Affine(self.scale * 2.0**self.exponent, zeros, "uint8", self.axis, self.block_size, most)

    @property
    def border(self) -> Float32:
        """Where the fine steps end and the coarse ones begin; the shape of ``scale``."""
        return self.fine.high

    @property
    def low(self) -> Float32:
        """The smallest real value on the grid; the shape of ``scale``."""
        return self.fine.low

    @property
    def high(self) -> Float32:
        """The largest real value on the grid; the shape of ``scale``."""
        return self.border + self.coarse.high

    @property
    def form(self) -> tuple[object, ...]:
        """All but the numbers, with both of its own."""
        return *super().form, self.exponent, self.levels

    def _quantized(self, values: FloatArray) -> Stored:
        """Count fine steps up to the border, and coarse ones on."""
        fine = self.fine.quantize(values)
        return fine + self.coarse.quantize(values - self.fine.dequantize(fine))

    def dequantize(self, stored: Stored) -> Float32:
        """Return the real values of codes."""
        fine = np.minimum(stored, np.uint8(self.levels))
        return self.fine.dequantize(fine) + self.coarse.dequantize(stored - fine)

    def snap(self, values: FloatArray, scale: Float32, zero_point: NDArray[np.int32]) -> FloatArray:
        """Return the nearest values of both grids in turn."""
        fine = self.fine.snap(values, scale, zero_point)
        return fine + self.coarse.snap(values - fine, scale * 2.0**self.exponent, zero_point * 0)

    def step(self, values: FloatArray) -> FloatArray:
        """Return the fine step up to the border, and the coarse one beyond."""
        scale, border = (self._spread(part, values.shape) for part in (self.scale, self.border))
        return np.where(values > border, scale * np.float32(2.0**self.exponent), scale)

    def to_fields(self) -> dict[str, Any]:
        """Return the fields of an ``# encode`` line."""
        return {**super().to_fields(), "exponent": self.exponent, "levels": self.levels}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """Read what ``to_fields`` wrote."""
        return cls(
            np.asarray(fields["scale"], np.float32),
            np.asarray(fields["zero_point"], np.int32),
            fields["dtype"],
            fields.get("axis"),
            fields.get("block"),
            exponent=fields["exponent"],
            levels=fields["levels"],
        )
