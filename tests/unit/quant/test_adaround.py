"""Learned rounding: one of two neighbours each, closer in what the layer computes, and as few undecided."""

import numpy as np
import pytest

from onnxq.quant.adam import Adam
from onnxq.quant.adaround import learn_rounding
from onnxq.quant.encodings import Encoding, block_encoding, symmetric_encoding
from onnxq.quant.rounding import output_error
from onnxq.quant.soft_rounding import SoftRounding

CHANNELS, COLUMNS = 40, 12


def _rows(seed: int) -> np.ndarray:
    """Return correlated rows, as layers have them; one channel is always zero."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(300, 8)) @ rng.normal(size=(8, CHANNELS)) + rng.normal(size=(300, CHANNELS))
    rows[:, 5] = 0
    return rows.astype(np.float32)


def _weight(seed: int) -> np.ndarray:
    return np.random.default_rng(1000 + seed).normal(size=(CHANNELS, COLUMNS)).astype(np.float32)


def _encodings(weight: np.ndarray) -> dict[str, Encoding]:
    return {
        "tensor int4": symmetric_encoding(np.abs(weight).max(), "int4"),
        "column int8": symmetric_encoding(np.abs(weight).max(axis=0), "int8", axis=1),
        "seven levels": symmetric_encoding(np.abs(weight).max(axis=0), "int8", axis=1, limit=3),
        "block uint4": block_encoding(weight, "uint4", 0, 10),
    }


@pytest.mark.parametrize("kind", list(_encodings(_weight(0))))
@pytest.mark.parametrize("seed", range(2))
def test_each_weight_becomes_a_neighbour_and_outputs_err_less(kind: str, seed: int) -> None:
    weight, rows = _weight(seed), _rows(seed)
    gram, encoding = rows.T @ rows, _encodings(weight)[kind]
    nearest, learned = encoding.restored(weight), learn_rounding(weight, gram, encoding)
    np.testing.assert_array_equal(encoding.restored(learned), learned)
    # A neighbour is less than a step away; scale and quotient are rounded to 2^-24 of up to 128 steps.
    assert (np.abs(learned - weight) <= encoding.step(weight) * (1 + 2e-5)).all()
    assert output_error(weight, learned, gram) < output_error(weight, nearest, gram) * 0.75


def test_what_is_cut_off_stays_at_the_end_of_the_grid() -> None:
    weight = _weight(0)
    encoding = symmetric_encoding(np.abs(weight).max(axis=0) / 2, "int4", axis=1)
    learned = learn_rounding(weight, _rows(0).T @ _rows(0), encoding)
    np.testing.assert_array_equal(encoding.restored(learned), learned)
    ends = np.broadcast_to(encoding.high, weight.shape)
    assert (learned == ends)[weight > ends].all()


def test_a_weight_on_its_grid_stays() -> None:
    encoding = symmetric_encoding(8.0, "int4")
    weight = encoding.restored(_weight(0))
    np.testing.assert_array_equal(learn_rounding(weight, _rows(0).T @ _rows(0), encoding), weight)


def test_it_begins_with_the_weight_itself() -> None:
    """Shares keep 1e-4 of the stretched sigmoid from the ends, and rounding of float32 is less."""
    weight = _weight(0)
    encoding = symmetric_encoding(np.abs(weight).max(), "int4")
    soft = SoftRounding.of(weight, encoding).soft
    assert np.abs(soft - weight).max() <= 2e-4 * encoding.scale


def test_the_regularizer_decides_all() -> None:
    learned = SoftRounding.of(_weight(0), symmetric_encoding(np.abs(_weight(0)).max(), "int4"))
    assert not learned.decided
    for step in range(300):
        learned.step(np.zeros_like(learned.place), step / 300, 1.0, 0.1)
    assert learned.decided
    np.testing.assert_array_equal(learned.soft, learned.hard)


def test_adam_finds_the_least_square() -> None:
    aim = np.array([1.0, -2.0, 30.0], np.float32)
    parameters = np.zeros(3, np.float32)
    adam = Adam(parameters)
    for step in range(4000):
        adam.step(2 * (parameters - aim), 0.3 * (1 - step / 4000))
    np.testing.assert_allclose(parameters, aim, rtol=1e-3)
