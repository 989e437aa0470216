"""Scales of what layers read and of their weights, searched in turn: each for how the other stands.

The cost is the rise of the loss to second order: squared errors of the layers' outputs, on sampled rows, each
times its squared gradient.

Source:
    Yuan et al., 2022, arXiv:2111.12293 (PTQ4ViT), sections 3.3 and 3.4: factors, rounds and metric. Their
    code takes the gradient of how far a model is from itself, which is 0; ours is drawn
    (``onnxq.autodiff.seeds``), and the grids are the ordinary ones, asymmetric where they were.

"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxq.quant.encodings import Affine
from onnxq.quant.ranges import DAMPING

Values = NDArray[np.float32]
FACTORS = np.linspace(0.5, 1.2, 15)
"""Of a step that is decided: the paper tries 100 of them."""


@dataclass(frozen=True, eq=False)
class Product:
    """A layer, as far as rows of its input go.

    Args:
        weight: Shape (C, N), for ``x @ weight``.
        squares: Squared gradients of the outputs on the rows, shape (R, N).
        encoding: That of the weight, per tensor or along axis 1, symmetric.

    """

    weight: Values
    squares: Values
    encoding: Affine

    def errors(self, rows: Values, read: Values) -> NDArray[np.float64]:
        """Return what each channel costs, shape (N,), where the layer reads ``read`` for ``rows``.

        A little is added for each weight, as in ``hessian_range``.
        """
        stored = self.encoding.restored(self.weight)
        off = read @ stored - rows @ self.weight
        squares = self.squares.T @ np.square(rows).mean(axis=1)
        little = DAMPING * squares * np.square(stored - self.weight).sum(axis=0)
        return np.asarray(np.einsum("rn,rn,rn->n", off, off, self.squares) + little, np.float64)


def alternated(
    rows: Values, products: Sequence[Product], encoding: Affine, rounds: int
) -> tuple[Affine, list[Product]]:
    """Return the encoding of what layers read, and the layers with theirs.

    Args:
        rows: Sampled rows of what they read, shape (R, C).
        products: All layers that read it so.
        encoding: That of the rows, per tensor.
        rounds: How often each is searched.

    """
    found = list(products)
    for _ in range(rounds):
        read = encoding.restored(rows)
        found = [_with_best_steps(one, rows, read) for one in found]
        encoding = _best_step(encoding, rows, found)
    return encoding, found


def _with_best_steps(product: Product, rows: Values, read: Values) -> Product:
    """Return the layer with the best of all factors for each channel, or for the weight."""
    tried = [replace(product, encoding=_scaled(product.encoding, factor)) for factor in FACTORS]
    costs = np.stack([one.errors(rows, read) for one in (product, *tried)])
    if product.encoding.axis is None:
        return (product, *tried)[int(costs.sum(axis=1).argmin())]
    scales = np.stack([one.encoding.scale for one in (product, *tried)])
    best = np.take_along_axis(scales, costs.argmin(axis=0)[np.newaxis], axis=0)[0]
    return replace(product, encoding=replace(product.encoding, scale=best))


def _best_step(encoding: Affine, rows: Values, products: Sequence[Product]) -> Affine:
    """Return the best of all factors; the first is 1, so that nothing gets worse."""
    tried = [encoding, *(_scaled(encoding, factor) for factor in FACTORS)]
    costs = [sum(float(one.errors(rows, each.restored(rows)).sum()) for one in products) for each in tried]
    return tried[int(np.argmin(costs))]


def _scaled(encoding: Affine, factor: float) -> Affine:
    """Return the grid in other steps around the same zero."""
    return replace(encoding, scale=(encoding.scale * factor).astype(np.float32))
