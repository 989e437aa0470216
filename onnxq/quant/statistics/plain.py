"""Numbers and arrays as plain JSON values; equal arrays give equal text on every machine."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def number_out(number: float) -> float | str:
    """Return what JSON can hold, and ``float`` reads back: it has no infinity."""
    return number if math.isfinite(number) else str(number)


def pair(numbers: Any) -> tuple[float, float]:
    """Return two numbers that were written as a list."""
    low, high = numbers
    return float(low), float(high)


def array_out(array: NDArray[Any]) -> dict[str, Any]:
    """Return dtype, shape and the little-endian bytes as base64."""
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    data = base64.b64encode(little.tobytes()).decode("ascii")
    return {"dtype": array.dtype.name, "shape": list(array.shape), "data": data}


def array_in(entry: Mapping[str, Any]) -> NDArray[Any]:
    """Read what ``array_out`` wrote."""
    dtype = np.dtype(entry["dtype"])
    flat = np.frombuffer(base64.b64decode(entry["data"], validate=True), dtype.newbyteorder("<"))
    return flat.astype(dtype).reshape(entry["shape"])


def numbers_in(entry: Mapping[str, Any]) -> NDArray[Any]:
    """Read an array that was measured, so that NaN can only come from damage.

    Raises:
        ValueError: It holds NaN.

    """
    array = array_in(entry)
    if np.isnan(array).any():
        raise ValueError("a measured array holds NaN")
    return array
