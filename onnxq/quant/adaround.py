"""Rounding weights up or down so that a layer's output errs least, learned by gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.quant.encodings import Encoding
from onnxq.quant.rounding import output_error, times_gram
from onnxq.quant.soft_rounding import SoftRounding

Array = NDArray[np.float32]

STEPS, RATE = 1000, 0.02
"""How many steps, and how far V moves in one: 0 to the ends of h takes 2.4."""

STRENGTH = 20.0
"""How much the regularizer of a weight counts, where rounding to nearest costs 1 for each weight. With 0.1,
too many weights are undecided at the end; from 10 to 30 the errors of EfficientNet's layers hardly change."""


def learn_rounding(weight: NDArray[np.floating[Any]], gram: Array, encoding: Encoding) -> Array:
    """Return values on the encoding's grid, each one of the two around its weight; shape of ``weight``.

    The error of the outputs is a quadratic form of the weights' errors, so that all rows of inputs are in
    every step. It ends when every weight is decided, or after ``STEPS``.

    Args:
        weight: Shape (C, N), for ``x @ weight``.
        gram: ``x.T @ x`` over many rows of inputs, shape (C, C), or (G, C, C) for groups of columns.
        encoding: A grid of integers.

    Source:
        Nagel, Amjad, van Baalen, Louizos and Blankevoort, 2020, arXiv:2004.10568 (AdaRound).

    """
    nearest = output_error(weight, encoding.restored(weight), gram)
    learned = SoftRounding.of(weight, encoding)
    if nearest <= 0:
        return encoding.restored(weight)
    products = gram.astype(np.float32) * np.float32(2 * weight.size / nearest)
    for step in range(STEPS):
        slope = times_gram(products, (learned.soft - weight).astype(np.float32))
        learned.step(slope, step / STEPS, STRENGTH, RATE)
        if learned.decided:
            break
    return learned.hard
