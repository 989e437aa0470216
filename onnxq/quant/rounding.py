"""Rounding weights so that a layer's output errs least, instead of each weight for itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.quant.encodings import Encoding

FloatArray = NDArray[np.floating[Any]]
Array = NDArray[np.float64]

DAMPING = 0.01
"""The part of the mean square that is added to each input's own: it keeps the factorisation stable."""

SMALL = 64
"""A triangle of fewer rows is inverted as any matrix is."""

BLOCK = 128
"""Inputs that are rounded before their errors go to all that follow."""


def round_to_outputs(weight: FloatArray, gram: FloatArray, encoding: Encoding) -> NDArray[np.float32]:
    """Return values on the encoding's grid whose product with the inputs errs little; shape of ``weight``.

    The weights of one input are rounded at a time, those of the largest inputs first, and those of the
    remaining inputs move so as to make up for the error. An input that is always zero is rounded to the
    nearest.

    Args:
        weight: Shape (C, N), for ``x @ weight``.
        gram: ``x.T @ x`` over many rows of inputs, shape (C, C); or (G, C, C) for G groups of columns with
            inputs of their own.
        encoding: The grid, per tensor, per column, or in blocks of rows.

    Source:
        Frantar, Ashkboos, Hoefler and Alistarh, 2022, arXiv:2210.17323: GPTQ, with a fixed grid.

    """
    if gram.ndim == 3:
        return _round_groups(weight, gram, encoding)
    order = np.argsort(-np.diagonal(gram), kind="stable")
    factor = _factor(gram[np.ix_(order, order)].astype(np.float64))
    scale, zero_point = (part[order] for part in encoding.spread(weight.shape))
    left = weight.astype(np.float64)[order]
    for start in range(0, len(left), BLOCK):
        end = min(start + BLOCK, len(left))
        errors = np.empty((end - start, left.shape[1]))
        for row in range(start, end):
            rounded = encoding.snap(left[row], scale[row], zero_point[row])
            errors[row - start] = (left[row] - rounded) / factor[row, row]
            left[row] = rounded
            left[row + 1 : end] -= np.outer(factor[row, row + 1 : end], errors[row - start])
        left[end:] -= factor[start:end, end:].T @ errors
    return left[np.argsort(order)].astype(np.float32)


def _round_groups(weight: FloatArray, gram: FloatArray, encoding: Encoding) -> NDArray[np.float32]:
    """Return the same of columns in groups, all groups at once."""
    order = np.argsort(-np.diagonal(gram, axis1=1, axis2=2), axis=1, kind="stable")[..., np.newaxis]
    matrices = np.take_along_axis(gram.astype(np.float64), order, axis=1)
    factor = _factors(np.take_along_axis(matrices, order.swapaxes(1, 2), axis=2))
    left, scale, zero_point = (
        np.take_along_axis(_stacked(part, len(gram)), order, axis=1)
        for part in (weight.astype(np.float64), *encoding.spread(weight.shape))
    )
    for row in range(left.shape[1]):
        rounded = encoding.snap(left[:, row], scale[:, row], zero_point[:, row])
        error = (left[:, row] - rounded) / factor[:, row, row, np.newaxis]
        left[:, row] = rounded
        left[:, row + 1 :] -= factor[:, row, row + 1 :, np.newaxis] * error[:, np.newaxis]
    found = np.take_along_axis(left, np.argsort(order, axis=1), axis=1)
    return found.swapaxes(0, 1).reshape(weight.shape).astype(np.float32)


def _stacked(columns: NDArray[Any], groups: int) -> NDArray[Any]:
    """Return columns in groups, (C, N), as (G, C, N / G)."""
    return columns.reshape(len(columns), groups, -1).swapaxes(0, 1)


def _factors(grams: Array) -> Array:
    """Return what ``_factor`` does, for each of small matrices."""
    squares = np.diagonal(grams, axis1=1, axis2=2)
    damping = np.where(squares > 0, DAMPING * squares.mean(axis=1, keepdims=True), 1.0)
    damped = grams + damping[..., np.newaxis] * np.eye(grams.shape[-1])
    root = np.linalg.cholesky(damped[:, ::-1, ::-1])[:, ::-1, ::-1]
    return np.asarray(np.linalg.inv(root), np.float64)


def _factor(gram: Array) -> Array:
    """Return the upper Cholesky factor of the inverse of the Gram matrix, which is damped in its place."""
    squares = np.diagonal(gram)
    np.fill_diagonal(gram, squares + np.where(squares > 0, DAMPING * squares.mean(), 1.0))
    root = np.linalg.cholesky(gram[::-1, ::-1])[::-1, ::-1]  # upper, and root @ root.T is the damped matrix
    return _inverse(np.asarray(root, np.float64))


def _inverse(upper: Array) -> Array:
    """Return the inverse of an upper triangular matrix, of those of its halves."""
    half = len(upper) // 2
    if half < SMALL:
        return np.asarray(np.linalg.inv(upper), np.float64)
    first, last = _inverse(upper[:half, :half]), _inverse(upper[half:, half:])
    corner = -first @ upper[:half, half:] @ last
    return np.block([[first, corner], [np.zeros_like(corner.T), last]])


def output_error(weight: FloatArray, rounded: FloatArray, gram: FloatArray) -> float:
    """Return the squared error of the outputs, summed over the rows that ``gram`` was made of.

    Args:
        weight: Shape (C, N).
        rounded: The same shape.
        gram: ``x.T @ x``, shape (C, C), or (G, C, C) for groups of columns.

    """
    error = (rounded - weight).astype(np.float32)
    return float(np.sum(error * times_gram(gram.astype(np.float32, copy=False), error), dtype=np.float64))


def times_gram(gram: NDArray[np.float32], columns: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ``gram @ columns``, shape (C, N); with a gram for each group of columns, (G, C, C), likewise."""
    if gram.ndim == 2:
        return gram @ columns
    found: NDArray[np.float32] = gram @ _stacked(columns, len(gram))
    return found.swapaxes(0, 1).reshape(columns.shape)
