"""SplitQuant: a weight in parts of near values, each with a grid of its own, apart or put together again.

The parts of a weight are the weight itself with zeros in the place of all other parts, so they add up to
it exactly. In a layer for each part, every grid must hold zero; else each zero would leak its error into
the sum. Put together in one weight no such zeros are left, and a grid may cover its part alone.

Values come as rows that share their cuts and grids; ``rows_of`` makes them of a weight.

Source: Song and Lin, 2025, arXiv:2501.12428. Exact cuts, tight grids and putting parts together are ours.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxq.quant.cuts import best_cuts
from onnxq.quant.encodings import Affine, affine_encoding

Rows = NDArray[np.float32]
Labels = NDArray[np.int8]
Cuts = Literal["kmeans", "range", "mse"]

NUDGE = 1 + 1e-6
"""So much wider are steps around an exact zero: the outermost values then round to 2 ** bits integers at
most, as none lies half-way between two."""

SAMPLE = 2048
"""So many quantiles stand for a longer row where cuts are tried out."""


def row_length(weight: NDArray[Any], axis: int, scope: str, block: int) -> int:
    """Return how many values share their cuts and grids.

    Args:
        weight: Any shape.
        axis: Its channel axis.
        scope: All of the ``tensor``, a ``channel``, or a ``block`` of a channel's values.
        block: The length of a block; where it does not divide a channel, the next multiple of 32 below it
            that does, and the whole channel if none does.

    """
    if scope == "tensor":
        return weight.size
    channel = weight.size // weight.shape[axis]
    lengths = range(block, 0, -32) if scope == "block" else ()
    return next((length for length in lengths if channel % length == 0), channel)


def rows_of(weight: NDArray[Any], axis: int, length: int) -> NDArray[Any]:
    """Return a weight as rows of ``length`` values, channel after channel."""
    return np.moveaxis(weight, axis, 0).reshape(-1, length)


def weight_of(rows: NDArray[Any], like: NDArray[Any], axis: int) -> NDArray[Any]:
    """Undo ``rows_of`` for a weight that is shaped ``like``."""
    return np.moveaxis(rows.reshape(np.moveaxis(like, axis, 0).shape), 0, axis)


def part_labels(rows: Rows, parts: int, cuts: Cuts, bits: int) -> Labels:
    """Return which part each value belongs to, 0 for the lowest; the shape of ``rows``.

    Args:
        rows: Shape (R, N), N > 0.
        parts: How many, at least 1.
        cuts: What the cuts shall do best: ``kmeans`` clusters the values, ``range`` makes the expected error
            of rounding within the parts small, ``mse`` the error itself, by a search that starts there.
        bits: The width of the grids that ``mse`` looks at.

    """
    positions = best_cuts(rows, parts, "kmeans" if cuts == "kmeans" else "range")
    if cuts == "mse":
        positions = _searched(rows, positions, bits)
    order = np.argsort(rows, axis=1, kind="stable")
    labels = np.empty(rows.shape, np.int8)
    np.put_along_axis(labels, order, _sorted_labels(positions, rows.shape[1]), axis=1)
    return labels


def part_of(values: NDArray[Any], labels: Labels, part: int) -> NDArray[Any]:
    """Return ``values`` where they belong to ``part``, and zeros."""
    return np.where(labels == part, values, values.dtype.type(0))


def part_encoding(part: Rows, bits: int, dtype: str, limit: int | None = None) -> Affine:
    """Return the grid of each row of one part, with an exact zero; scales of shape (R,).

    Args:
        part: Shape (R, N), with the zeros that stand for other parts.
        bits: 2 ** bits integers are in use.
        dtype: What holds them: the type of that width, or ``int8``, which counts from zero on both sides.
        limit: The largest magnitude of an integer, if not the type's; fewer than 2 ** bits may be left then.

    """
    low, high = part.min(axis=1), part.max(axis=1)
    least, most = Affine.limits_of(dtype, limit)
    if most - least >= 2**bits:
        narrow = affine_encoding(low, high, f"uint{bits}", axis=0)
        scale, zero_point = narrow.scale * np.float32(NUDGE), np.zeros_like(narrow.zero_point)
        return Affine(scale, zero_point, dtype, axis=0, limit=limit)
    return affine_encoding(low, high, dtype, axis=0, limit=limit)


def rounded_around_zero(rows: Rows, labels: Labels, bits: int) -> Rows:
    """Return the sum of all parts, each rounded to its own grid with an exact zero."""
    restored = np.zeros_like(rows)
    for part in range(int(labels.max(initial=0)) + 1):
        values = part_of(rows, labels, part)
        encoding = part_encoding(values, bits, "int8")
        restored += encoding.restored(values)
    return restored


def rounded_tightly(rows: Rows, labels: Labels, bits: int) -> Rows:
    """Return every value rounded to the grid of its part, which spans the part's own range and no more."""
    restored = np.zeros(rows.shape, np.float64)
    for part in range(int(labels.max(initial=0)) + 1):
        inside = labels == part
        low = np.where(inside, rows, np.inf).min(axis=1, keepdims=True)
        high = np.where(inside, rows, -np.inf).max(axis=1, keepdims=True)
        low, step = np.where(low <= high, low, 0), (high - low) / (2**bits - 1)
        step = np.where(step > 0, step, 1)
        restored += np.where(inside, low + step * np.rint((rows - low) / step), 0)
    return restored.astype(np.float32)


def squared_error(rows: Rows, labels: Labels, bits: int) -> NDArray[np.float64]:
    """Return what rounding tightly costs each row, shape (R,)."""
    error = (rows - rounded_tightly(rows, labels, bits)).astype(np.float64)
    total: NDArray[np.float64] = np.square(error).sum(axis=1)
    return total


def distinct_values(rows: NDArray[Any]) -> int:
    """Return how many values the row of most different values holds."""
    ordered = np.sort(rows, axis=1)
    return int((ordered[:, 1:] != ordered[:, :-1]).sum(axis=1).max(initial=0)) + 1


def packed_bits(distinct: int, length: int, width: int) -> float:
    """Return the bits a value would take as an index into its row's table of ``distinct`` numbers.

    Args:
        distinct: How many numbers.
        length: How many values share a table.
        width: The bits of a number in the table.

    """
    return float(np.ceil(np.log2(max(distinct, 2)))) + distinct * width / length


def _searched(rows: Rows, positions: NDArray[np.intp], bits: int) -> NDArray[np.intp]:
    """Move one cut at a time by shorter and shorter steps while the error of a row gets smaller.

    The search runs on quantiles of long rows. A row keeps the cuts it began with where the search has not
    made its error smaller in full.
    """
    ordered = np.sort(rows, axis=1)
    length = rows.shape[1]
    places = np.unique(np.linspace(0, length - 1, min(length, SAMPLE)).astype(np.intp))
    found = _descended(ordered[:, places], np.searchsorted(places, positions), bits)
    found = np.append(places, length)[found]
    before, after = (
        squared_error(ordered, _sorted_labels(cuts, length), bits) for cuts in (positions, found)
    )
    better: NDArray[np.intp] = np.where((after < before)[:, np.newaxis], found, positions)
    return better


def _descended(ordered: Rows, cuts: NDArray[np.intp], bits: int) -> NDArray[np.intp]:
    length = ordered.shape[1]
    best = squared_error(ordered, _sorted_labels(cuts, length), bits)
    step = length // 8
    while step:
        improved = False
        for cut, move in [(cut, move) for cut in range(cuts.shape[1]) for move in (-step, step)]:
            tried = cuts.copy()
            tried[:, cut] += move
            tried = np.sort(np.clip(tried, 0, length), axis=1)
            error = squared_error(ordered, _sorted_labels(tried, length), bits)
            better = error < best
            improved |= bool(better.any())
            cuts, best = np.where(better[:, np.newaxis], tried, cuts), np.where(better, error, best)
        step = step if improved and step > length // 16 else step // 2
    return cuts


def _sorted_labels(positions: NDArray[np.intp], length: int) -> Labels:
    """Return the parts of sorted rows of ``length`` that are cut at ``positions``."""
    places = np.arange(length)
    labels: Labels = (places >= positions[:, :, np.newaxis]).sum(axis=1).astype(np.int8)
    return labels
