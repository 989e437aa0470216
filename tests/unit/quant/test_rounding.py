"""Rounding to outputs: on the grid, exactly kept by quantizing, and closer in what the layer computes."""

import numpy as np
import pytest

from onnxq.quant.encodings import Encoding, block_encoding, symmetric_encoding
from onnxq.quant.rounding import DAMPING, output_error, round_to_outputs

CHANNELS, COLUMNS = 200, 24
"""More channels than are rounded in one block."""


def _rows(seed: int, count: int = 600) -> np.ndarray:
    """Return correlated rows, as layers have them; one channel is always zero."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, 20)) @ rng.normal(size=(20, CHANNELS)) + rng.normal(size=(count, CHANNELS))
    rows[:, 5] = 0
    return rows.astype(np.float32)


def _weight(seed: int) -> np.ndarray:
    return np.random.default_rng(1000 + seed).normal(size=(CHANNELS, COLUMNS)).astype(np.float32)


def _encodings(weight: np.ndarray) -> dict[str, Encoding]:
    return {
        "tensor int4": symmetric_encoding(np.abs(weight).max(), "int4"),
        "column int8": symmetric_encoding(np.abs(weight).max(axis=0), "int8", axis=1),
        "column float8": symmetric_encoding(np.abs(weight).max(axis=0), "float8e4m3fn", axis=1),
        "block float8": block_encoding(weight, "float8e4m3fn", 0, 64),
        "block uint4": block_encoding(weight, "uint4", 0, 32),
        "block int4": block_encoding(weight, "int4", 0, 128, symmetric=True),
    }


@pytest.mark.parametrize("kind", list(_encodings(_weight(0))))
@pytest.mark.parametrize("seed", range(3))
def test_quantizing_keeps_what_was_rounded(kind: str, seed: int) -> None:
    weight, rows = _weight(seed), _rows(seed)
    encoding = _encodings(weight)[kind]
    rounded = round_to_outputs(weight, rows.T @ rows, encoding)
    # A product of scale and number, divided by the scale, is off by two float32 roundings: far from a half.
    np.testing.assert_array_equal(encoding.restored(rounded), rounded)


@pytest.mark.parametrize("kind", list(_encodings(_weight(0))))
@pytest.mark.parametrize("seed", range(3))
def test_the_outputs_err_less_than_after_rounding_to_nearest(kind: str, seed: int) -> None:
    weight, rows = _weight(seed), _rows(seed)
    gram, encoding = rows.T @ rows, _encodings(weight)[kind]
    nearest = encoding.restored(weight)
    rounded = round_to_outputs(weight, gram, encoding)
    assert output_error(weight, rounded, gram) < output_error(weight, nearest, gram) / 2


def test_independent_inputs_are_rounded_to_nearest() -> None:
    weight = _weight(0)
    encoding = _encodings(weight)["column int8"]
    rounded = round_to_outputs(weight, np.diag(np.arange(CHANNELS)).astype(np.float32), encoding)
    np.testing.assert_array_equal(rounded, encoding.restored(weight))


def test_the_error_is_that_of_the_rows() -> None:
    weight, rows = _weight(1).astype(np.float64), _rows(1).astype(np.float64)
    other = weight + np.random.default_rng(2).normal(size=weight.shape)
    direct = np.square(rows @ (other - weight)).sum()
    # A product in float32 rounds each of its terms, all of one sign in the end, to 2^-24 of it.
    bound = 4 * len(weight) * 2.0**-24
    assert output_error(weight, other, rows.T @ rows) == pytest.approx(direct, rel=bound)


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("seed", range(3))
def test_no_input_errs_by_more_than_half_a_step_given_those_that_follow(kind: str, seed: int) -> None:
    """The error is that of each input alone, once the inputs that follow have made up for what they can.

    What they cannot make up for is the part of its mean square that no linear function of theirs tells: a
    Schur complement of the Gram matrix, which its Cholesky factorisation from the end holds. Half a step of
    error in it is the most, if nothing is clipped: so the steps are twice as wide as the weights need. The
    bound holds for the damped matrix, by which nothing errs less.

    Source: Chee et al., 2023, arXiv:2307.13304, theorem 1.
    """
    weight, rows = _weight(seed), _rows(seed)
    encoding = symmetric_encoding(2 * np.abs(weight).max(axis=0), kind, axis=1)
    gram = (rows.T @ rows).astype(np.float64)
    order = np.argsort(-np.diagonal(gram), kind="stable")
    squares = np.diagonal(gram)
    damped = (gram + np.diag(np.where(squares > 0, DAMPING * squares.mean(), 1.0)))[np.ix_(order, order)]
    alone = np.square(np.diagonal(np.linalg.cholesky(damped[::-1, ::-1]))).sum()
    bound = alone * np.square(encoding.scale.astype(np.float64) / 2).sum()
    rounded = round_to_outputs(weight, gram, encoding)
    # Rounding to float32 moves a weight of up to 64 steps by 2^-24 of itself: by 4e-6 of a step.
    assert output_error(weight, rounded, gram) <= bound * (1 + 2e-5)
    assert alone < np.trace(damped) / 2, "correlated inputs tell of each other"


@pytest.mark.parametrize("granularity", ["tensor int4", "column int8"])
def test_groups_are_rounded_each_by_its_own_inputs(granularity: str) -> None:
    weight = _weight(0)
    encoding = _encodings(weight)[granularity]
    grams = np.stack([_rows(seed).T @ _rows(seed) for seed in range(3)])
    together, width = round_to_outputs(weight, grams, encoding), COLUMNS // 3
    alone = [round_to_outputs(weight, gram, encoding) for gram in grams]
    parts = [one[:, width * at : width * (at + 1)] for at, one in enumerate(alone)]
    np.testing.assert_array_equal(together, np.hstack(parts))
    errors = [
        output_error(weight[:, width * at : width * (at + 1)], parts[at], gram)
        for at, gram in enumerate(grams)
    ]
    # Three sums in float32 of products that are rounded once more; see above.
    assert output_error(weight, together, grams) == pytest.approx(sum(errors), rel=4 * CHANNELS * 2.0**-24)
