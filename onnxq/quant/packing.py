"""How ONNX Runtime's operators on weights in blocks store integers: unsigned, several in a byte.

Source:
    The specification of com.microsoft.MatMulNBits and GatherBlockQuantized, onnxruntime 1.31.1,
    docs/ContribOperators.md.

"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Integers = NDArray[Any]


def unsigned(integers: Integers, bits: int) -> Bytes:
    """Return integers of ``bits`` with their smallest value at 0; those without a sign stay as they are."""
    signed = np.dtype(integers.dtype).name.startswith("int")
    middle = 2 ** (bits - 1) if signed else 0
    shifted: Bytes = (integers.astype(np.int16) + middle).astype(np.uint8)
    return shifted


def pack(integers: Bytes, bits: int) -> Bytes:
    """Return integers below ``2 ** bits`` packed along the last axis, the first of a byte lowest.

    Args:
        integers: Shape (..., n).
        bits: 4 or 8.

    Returns:
        Shape (..., ceil(n * bits / 8)); what is left of the last byte is 0.

    """
    if bits == 8:
        return integers
    if integers.flags.c_contiguous and integers.shape[-1] % 2 == 0:
        pairs = integers.view("<u2")
        joined: Bytes = (pairs | pairs >> 4).astype(np.uint8)
        return joined
    filling = [(0, 0)] * (integers.ndim - 1) + [(0, integers.shape[-1] % 2)]
    nibbles = np.pad(integers, filling)
    packed: Bytes = nibbles[..., 0::2] | (nibbles[..., 1::2] << np.uint8(4))
    return packed


def unpack(packed: Bytes, bits: int, count: int) -> Bytes:
    """Return the first ``count`` integers that were packed along the last axis.

    Args:
        packed: Shape (..., m), as ``pack`` gives it.
        bits: 2, 4 or 8.
        count: At most ``m * 8 / bits``.

    Returns:
        Shape (..., count).

    """
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    integers: Bytes = (packed[..., None] >> shifts) & np.uint8(2**bits - 1)
    return integers.reshape(*packed.shape[:-1], -1)[..., :count]


def pack_columns(integers: Integers, bits: int, block: int) -> Bytes:
    """Return a matrix as MatMulNBits stores it: column by column, block by block.

    Args:
        integers: Shape (K, N), of ``bits`` with or without a sign.
        bits: 4 or 8.
        block: The length of a block; the last one is filled up with zeros.

    Returns:
        Shape (N, ceil(K / block), block * bits / 8).

    """
    columns = unsigned(integers, bits).T
    filled = np.pad(columns, ((0, 0), (0, -columns.shape[1] % block)))
    return np.ascontiguousarray(pack(filled.reshape(len(columns), -1, block), bits))
