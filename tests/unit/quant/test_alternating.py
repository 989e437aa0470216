"""Steps searched in turn: nothing gets worse, and what is clipped on one side is made up for on the other."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxq.quant.alternating import Product, alternated
from onnxq.quant.encodings import Affine, covering
from onnxq.quant.ranges import DAMPING


def _rows(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_t(3, size=(60, 12)).astype(np.float32)


def _product(
    rows: NDArray[np.float32], seed: int, whole: bool = False, width: int = 5
) -> tuple[Product, Affine]:
    rng = np.random.default_rng(100 + seed)
    weight = rng.standard_t(3, size=(12, width)).astype(np.float32)
    largest = np.abs(weight).max(axis=None if whole else 0)
    encoding = covering(-largest, largest, "int8", symmetric=True, axis=None if whole else 1, limit=7)
    assert isinstance(encoding, Affine)
    return Product(rows, weight, rng.exponential(size=(60, width)).astype(np.float32)), encoding


def _encoding(rows: NDArray[np.float32]) -> Affine:
    encoding = covering(rows.min(), rows.max(), "uint8", limit=15)
    assert isinstance(encoding, Affine)
    return encoding


def _cost(products: list[Product], encodings: list[Affine], encoding: Affine) -> float:
    """Return the weighed squared errors of what the layers give, by the definition, and what is added."""
    rows = products[0].rows
    read = encoding.dequantize(encoding.quantize(rows)).astype(np.float64)
    total = 0.0
    for one, each in zip(products, encodings, strict=True):
        stored = each.restored(one.weight)
        total += float((one.squares * (read @ stored - rows @ one.weight) ** 2).sum())
        inputs = np.einsum("rn,rc->n", one.squares, rows**2) / rows.shape[1]
        total += DAMPING * float(inputs @ ((stored - one.weight) ** 2).sum(axis=0))
    return total


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_each_round_costs_no_more(seed: int, whole: bool) -> None:
    rows = _rows(seed)
    products, encodings = map(
        list, zip(_product(rows, seed, whole), _product(rows, seed + 1, whole, 3), strict=True)
    )
    before, costs = _encoding(rows), []
    for rounds in range(4):
        encoding, found = alternated(products, encodings, before, rounds)
        costs.append(_cost(products, found, encoding))
        assert [one.axis for one in found] == [one.axis for one in encodings]
        assert (encoding.zero_point, encoding.limit) == (before.zero_point, before.limit)
    # float32 rounding of sums of 12 products, of which the errors are no smaller than a hundredth
    assert all(after <= earlier * (1 + 1e-4) for earlier, after in pairwise(costs))
    assert costs[3] < 0.9 * costs[0]


def test_channels_get_their_own_steps() -> None:
    """What the loss does not care for in one channel is no reason to change another."""
    rows = _rows(0)
    one, steps = _product(rows, 0)
    alone = Product(rows, one.weight[:, :1], one.squares[:, :1])
    expected = alternated([alone], [_column(steps)], _encoding(rows), 1)[1][0].scale[0]
    assert alternated([one], [steps], _encoding(rows), 1)[1][0].scale[0] == expected


def _column(encoding: Affine) -> Affine:
    return Affine(encoding.scale[:1], encoding.zero_point[:1], "int8", axis=1, limit=encoding.limit)
