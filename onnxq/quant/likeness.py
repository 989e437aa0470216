"""How alike two weights are, judged by a sample of their elements."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLE = 4096
"""Elements that are compared; the cosine of unrelated weights then stays within 6/64 of zero."""

ALIKE = 0.9
"""The smallest cosine of a weight and its quantized form: 4 bits for a whole normal tensor give 0.99."""


def sample_of(array: NDArray[Any], count: int = SAMPLE) -> NDArray[np.float64]:
    """Return elements of ``array`` at places that depend on its shape only, scaled to length 1.

    Args:
        array: Any shape, at least one element.
        count: How many elements to take at most.

    """
    places = np.arange(array.size)
    if array.size > count:
        places = np.sort(np.random.default_rng(array.size).choice(array.size, count, replace=False))
    taken = array[np.unravel_index(places, array.shape)].astype(np.float64)
    length = float(np.linalg.norm(taken))
    return taken / length if length > 0 and np.isfinite(length) else np.zeros_like(taken)


def by_channel(array: NDArray[Any], axis: int) -> NDArray[np.float64]:
    """Return ``array`` with each channel scaled to length 1 and its largest element positive.

    What is left is what an unknown scale for each channel, as integers without theirs or a folded
    normalization have, does not change.

    Args:
        array: Any shape with ``axis``.
        axis: The channel axis.

    """
    rows = np.moveaxis(array, axis, 0).astype(np.float64)
    flat = rows.reshape(len(rows), -1)
    largest = np.take_along_axis(flat, np.abs(flat).argmax(axis=1)[:, None], 1)
    lengths = np.copysign(np.linalg.norm(flat, axis=1, keepdims=True), largest)
    scaled = np.divide(flat, lengths, out=np.zeros_like(flat), where=lengths != 0)
    return np.moveaxis(scaled.reshape(rows.shape), 0, axis)


def likeness(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Return the cosine of two arrays of one shape by their samples; 0 where one is all zero."""
    return float(sample_of(first) @ sample_of(second))


def bars(values: NDArray[Any], count: int = 48) -> tuple[list[float], list[int]]:
    """Return the ``count + 1`` edges and the ``count`` heights of a histogram of all finite values.

    Args:
        values: Any shape.
        count: How many bars, all of one width.

    """
    finite = values[np.isfinite(values)]
    if not finite.size:
        return [], []
    heights, edges = np.histogram(finite, count)
    return [float(f"{edge:.6g}") for edge in edges], [int(height) for height in heights]
