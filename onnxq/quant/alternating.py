"""Scales of what layers read and of their weights, searched in turn: each for how the other stands.

The cost is the rise of the loss to second order: squared errors of the layers' outputs, on sampled rows, each
times its squared gradient.

Source:
    Yuan et al., 2022, arXiv:2111.12293 (PTQ4ViT), sections 3.3 and 3.4: factors, rounds and metric. Their
    code takes the gradient of how far a model is from itself, which is 0; ours is drawn
    (``onnxq.autodiff.seeds``), and the grids are the ordinary ones, asymmetric where they were.

"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from onnxq.quant.encodings import Affine
from onnxq.quant.ranges import DAMPING

Values = NDArray[np.float32]
Cost = Callable[[Values], NDArray[np.float64]]
"""What steps cost, each of them; of their shape."""

FACTORS, NEAR = (1.0, 0.9, 1.1, 0.8, 1.2, 0.7, 0.6, 0.5), (1.0, 0.95, 1.05)
"""Of a step that is decided: in tenths, and then on both sides of the best of them. The paper tries 100."""


@dataclass(frozen=True, eq=False)
class Product:
    """A layer, as far as rows of its input go.

    Args:
        rows: Sampled rows of what it reads, shape (R, C).
        weight: Shape (C, N), for ``rows @ weight``.
        squares: Squared gradients of the outputs on the rows, shape (R, N).

    """

    rows: Values
    weight: Values
    squares: Values

    @cached_property
    def _exact(self) -> Values:
        return np.asarray(self.rows @ self.weight)

    @cached_property
    def _little(self) -> Values:
        """What is added for the squared error of each channel's weights, as in ``hessian_range``."""
        return np.asarray(DAMPING * self.squares.T @ np.square(self.rows).mean(axis=1))

    def errors(self, encoding: Affine, read: Values) -> NDArray[np.float64]:
        """Return what each channel costs, shape (N,), where the layer reads ``read`` for its rows.

        Args:
            encoding: That of the weight, per tensor or along axis 1, symmetric.
            read: Of the rows' shape.

        """
        stored = encoding.restored(self.weight)
        off = read @ stored
        off -= self._exact
        little = self._little * np.square(stored - self.weight).sum(axis=0)
        return np.asarray(np.einsum("rn,rn,rn->n", off, off, self.squares) + little, np.float64)


def alternated(
    products: Sequence[Product], encodings: Sequence[Affine], encoding: Affine, rounds: int
) -> tuple[Affine, list[Affine]]:
    """Return the encoding of what layers read, and those of their weights.

    Args:
        products: All layers that read the same rows so.
        encodings: Those of their weights.
        encoding: That of the rows, per tensor.
        rounds: How often each is searched.

    """
    found, rows = list(encodings), products[0].rows
    for _ in range(rounds):
        read = encoding.restored(rows)
        found = [_with_best_steps(one, each, read) for one, each in zip(products, found, strict=True)]
        encoding = _best_step(encoding, products, found)
    return encoding, found


def _with_best_steps(product: Product, encoding: Affine, read: Values) -> Affine:
    """Return the encoding of a weight with the best steps, for each channel where it has such."""

    def cost(scale: Values) -> NDArray[np.float64]:
        errors = product.errors(replace(encoding, scale=scale), read)
        return errors if scale.ndim else errors.sum()

    return replace(encoding, scale=_searched(encoding.scale, cost))


def _best_step(encoding: Affine, products: Sequence[Product], encodings: Sequence[Affine]) -> Affine:
    """Return the encoding of what layers read with the best step around the same zero."""

    def cost(scale: Values) -> NDArray[np.float64]:
        read = replace(encoding, scale=scale).restored(products[0].rows)
        errors = (one.errors(each, read) for one, each in zip(products, encodings, strict=True))
        return np.asarray(sum(one.sum() for one in errors))

    return replace(encoding, scale=_searched(encoding.scale, cost))


def _searched(scale: Values, cost: Cost) -> Values:
    """Return the steps that cost least, each for itself; nothing gets worse."""
    for factors in (FACTORS, NEAR):
        tried = np.stack([np.asarray(scale * factor, np.float32) for factor in factors])
        costs = np.stack([cost(one) for one in tried])
        scale = np.take_along_axis(tried, costs.argmin(axis=0)[np.newaxis], axis=0)[0]
    return np.asarray(scale)
