"""Encodings: one file for each family, and one for each layout of scales that is more than a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.quant.encodings.affine import Affine
from onnxq.quant.encodings.base import Encoding, FloatArray
from onnxq.quant.encodings.blocks import Blocks
from onnxq.quant.encodings.float8 import Float8
from onnxq.quant.encodings.twin import Twin

FAMILIES: dict[str, type[Encoding]] = {"affine": Affine, "float8": Float8, "twin-uniform": Twin}
"""Every family by name; each dtype belongs to one of them."""


def dtypes() -> dict[str, np.dtype[Any]]:
    """Return the types that encodings store, by ONNX's names."""
    return {name: dtype for family in FAMILIES.values() for name, dtype in family.dtypes.items()}


def family_of(dtype: str) -> type[Encoding]:
    """Return the family that stores numbers of ``dtype``.

    Raises:
        ValueError: None does.

    """
    for family in FAMILIES.values():
        if dtype in family.dtypes:
            return family
    raise ValueError(f"unknown dtype {dtype!r}; choose from {', '.join(dtypes())}")


def encoding_of(
    scale: NDArray[Any],
    zero_point: NDArray[Any],
    dtype: str = "uint8",
    axis: int | None = None,
    block_size: int | None = None,
    limit: int | None = None,
) -> Encoding:
    """Return the encoding of the family of ``dtype``; see ``Encoding``."""
    return family_of(dtype)(scale, zero_point, dtype, axis, block_size, limit)


def read_encoding(fields: Mapping[str, Any]) -> Encoding:
    """Return the encoding that an ``# encode`` line tells; see ``Encoding.to_fields``.

    Raises:
        ValueError: It tells of none; so may be KeyError, TypeError.

    """
    dtype = fields.get("dtype", "uint8")
    return family_of(dtype).from_fields({**fields, "dtype": dtype})


def limit_of_bits(dtype: str, bits: int | None) -> int | None:
    """Return the largest integer of so many bits, as the limit of an encoding in a wider type of integers.

    Unsigned grids have all ``2**bits`` levels, signed ones leave the lowest out. None where ``dtype`` has no
    more, or ``bits`` is None.
    """
    if bits is None:
        return None
    least, most = family_of(dtype).limits_of(dtype)
    largest = 2 ** (bits - (least < 0)) - 1
    return largest if largest < most else None


def affine_encoding(
    low: FloatArray | float,
    high: FloatArray | float,
    dtype: str = "uint8",
    axis: int | None = None,
    block_size: int | None = None,
    limit: int | None = None,
) -> Affine:
    """Return the asymmetric encoding in integers that covers ``low``..``high``; see ``Encoding.covering``."""
    return Affine.covering(low, high, dtype, axis, block_size, limit)


def symmetric_encoding(
    largest: FloatArray | float,
    dtype: str = "int8",
    axis: int | None = None,
    block_size: int | None = None,
    limit: int | None = None,
) -> Encoding:
    """Return the encoding that covers ``-largest``..``largest``; see ``Encoding.symmetric``.

    The most negative integer stays unused, so that the grid is the same on both sides of zero. An
    unsigned dtype gets its zero point at 0 and covers 0..``largest``.
    """
    return family_of(dtype).symmetric(largest, dtype, axis, block_size, limit)


def covering(
    low: FloatArray | float,
    high: FloatArray | float,
    dtype: str,
    *,
    symmetric: bool = False,
    axis: int | None = None,
    block_size: int | None = None,
    limit: int | None = None,
) -> Encoding:
    """Return the encoding in ``dtype`` that covers ``low``..``high``; see ``Encoding.covering``.

    Args:
        low: Shape () or, with ``axis``, (C,), or one for each block.
        high: The same shape.
        dtype: A type of any family.
        symmetric: Whether it shall be symmetric around zero, which some families always are.
        axis: The channel axis, or the one that is cut into blocks.
        block_size: The length of a block.
        limit: The largest magnitude that is stored, if not the type's.

    """
    if symmetric:
        largest = np.maximum(np.abs(low), np.abs(high))
        return symmetric_encoding(largest, dtype, axis, block_size, limit)
    return family_of(dtype).covering(low, high, dtype, axis, block_size, limit)


def block_encoding(
    values: FloatArray, dtype: str, axis: int, block_size: int, *, symmetric: bool = False
) -> Encoding:
    """Return an encoding with a scale for each block that covers the block's values.

    Args:
        values: Any shape with at least one element along ``axis``.
        dtype: A type of any family.
        axis: The axis that is cut into blocks, 0 or more.
        block_size: The length of a block; the last may be shorter.
        symmetric: Whether zero is stored as 0, so that the grid is the same on both sides of it.

    """
    ends = Blocks(axis, block_size).ends(values)
    return covering(*ends, dtype, symmetric=symmetric, axis=axis, block_size=block_size)


__all__ = [
    "FAMILIES",
    "Affine",
    "Encoding",
    "Float8",
    "Twin",
    "affine_encoding",
    "block_encoding",
    "covering",
    "dtypes",
    "encoding_of",
    "family_of",
    "limit_of_bits",
    "read_encoding",
    "symmetric_encoding",
]
