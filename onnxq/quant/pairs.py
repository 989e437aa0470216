"""Neighbouring integers of a weight, whose products with uint8 some processors add up in 16 bits.

VPMADDUBSW adds two products of uint8 and int8 and saturates. The two are neighbours along what a layer adds
up; which of the neighbours meet depends on where the kernel begins, so any two count here. A convolution's
window is read channel by channel or place by place: both count as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.quant.encodings import Encoding, symmetric_encoding

LARGEST_ACTIVATION = 255
LARGEST_PAIR = (2**15 - 1) // LARGEST_ACTIVATION
"""Two weights of one sign, times 255 each, stay within signed 16 bits if they add up to no more."""

PIECE = 1 << 17
"""So many integers are looked at at once, which stay in the processor's cache."""

Matrix = NDArray[Any]
Order = NDArray[np.intp]


def as_matrix(weight: Matrix, channel_axis: int) -> Matrix:
    """Return a weight of any layer as one column for each output channel, shape (K, N).

    A row is one of the K numbers that a sum is taken over, with the last axis of the window running fastest.
    """
    return np.moveaxis(weight, channel_axis, -1).reshape(-1, weight.shape[channel_axis])


def orders_of(window: Sequence[int]) -> tuple[Order, ...]:
    """Return the orders in which kernels may read the rows of a matrix.

    Args:
        window: What a sum is taken over: (K,), or (channels, *places) of a convolution.

    """
    rows = np.arange(math.prod(window)).reshape(tuple(window))
    both = rows.ravel(), np.moveaxis(rows, 0, -1).ravel()
    return both if len(window) > 1 else both[:1]


def largest_pairs(integers: Matrix, orders: Sequence[Order]) -> NDArray[np.int16]:
    """Return for each column the largest magnitude of the sum of two neighbours; 0 where there are no two.

    Args:
        integers: Shape (K, N), int8.
        orders: As ``orders_of`` returns them.

    """
    found = np.zeros(integers.shape[1], np.int16)
    step = max(PIECE // max(integers.shape[1], 1), 1)
    for order in orders:
        for start in range(0, len(order) - 1, step):
            rows = integers[order[start : start + step + 1]].astype(np.int16)
            pairs = rows[1:] + rows[:-1]
            np.maximum(found, np.maximum(pairs.max(axis=0), -pairs.min(axis=0)), out=found)
    return found


def pair_exact(matrix: Matrix, largest: NDArray[np.float64], orders: Sequence[Order]) -> Encoding:
    """Return the int8 encoding of columns, symmetric around zero, under which no pair exceeds 16 bits.

    A column's step is the one that covers its range with all of int8, or as much larger as its own pairs ask
    for: between that and the double, which 7 bits would take.

    Args:
        matrix: Shape (K, N), float32.
        largest: Where each column's range ends, shape (N,).
        orders: As ``orders_of`` returns them.

    """
    while True:
        encoding = symmetric_encoding(largest, axis=1)
        pairs = largest_pairs(encoding.quantize(matrix), orders)
        if (pairs <= LARGEST_PAIR).all():
            return encoding
        # rounding moves each of a pair by half a step, so that one step less than the bound may be over it
        largest = largest * np.where(pairs > LARGEST_PAIR, pairs / (LARGEST_PAIR - 1), 1)


def hold_pairs(integers: Matrix, orders: Sequence[Order]) -> Matrix:
    """Return integers whose pairs are exact: of two that add up to too much, the larger gives way.

    Args:
        integers: Shape (K, N), int8.
        orders: As ``orders_of`` returns them.

    """
    held = integers.astype(np.int16)
    while (largest_pairs(held, orders) > LARGEST_PAIR).any():
        for order in orders:
            for row, column in np.argwhere(np.abs(held[order][1:] + held[order][:-1]) > LARGEST_PAIR):
                _give_way(held[:, column], order[row : row + 2])
    return held.astype(integers.dtype)


def _give_way(column: Matrix, pair: Order) -> None:
    """Move the larger of two numbers of one sign towards zero until they fit."""
    over = int(np.abs(column[pair].sum())) - LARGEST_PAIR
    if over > 0:
        larger = pair[np.argmax(np.abs(column[pair]))]
        column[larger] -= over * np.sign(column[larger])
