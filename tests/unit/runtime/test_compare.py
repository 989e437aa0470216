"""Comparisons on plain arrays and values."""

import math

import numpy as np
import pytest

from onnxq.runtime.compare import EqualityComparison, FloatComparison, cosine, plain, sqnr_db


def test_cosines_of_zero_vectors_are_defined() -> None:
    assert cosine(0, 0, 0) == 1
    assert cosine(0, 4, 0) == 0
    assert cosine(3 * 7, 3 * 3, 7 * 7) == 1
    assert cosine(-21, 9, 49) == -1


def test_sqnr_counts_decibels() -> None:
    assert sqnr_db(100, 1) == 20
    assert sqnr_db(1, 0) == sqnr_db(0, 0) == math.inf
    assert sqnr_db(0, 1) == -math.inf


def test_json_gets_no_infinity() -> None:
    assert plain({"a": math.inf, "b": (1.5, math.nan), "c": [None, "x"]}) == {
        "a": None,
        "b": [1.5, None],
        "c": [None, "x"],
    }


def test_an_output_without_a_batch_axis_is_one_sample() -> None:
    comparison = FloatComparison("y")
    first = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    comparison.update(first, first + np.array([0.0, 1.0]), None, samples=8)
    result = comparison.result()
    assert result.cosine_mean == result.cosine_min == result.cosine
    assert result.cosine == pytest.approx(3 / math.sqrt(2 * 7))  # rows (1, 1), (0, 2), (0, 1)


def test_each_sample_has_its_own_cosine() -> None:
    comparison = FloatComparison("y")
    first, second = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[1.0, 0.0], [2.0, 0.0]])
    comparison.update(first, second, None, samples=2)
    result = comparison.result()
    assert (result.cosine_mean, result.cosine_min, result.agreement) == (0.5, 0, 0.5)


def test_nothing_compared_gives_no_numbers() -> None:
    comparison = FloatComparison("y")
    comparison.update(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32), None, samples=0)
    result = comparison.result()
    assert (result.compared, result.cosine, result.sqnr_db, result.max_abs, result.agreement) == (0,) + (
        None,
    ) * 4


@pytest.mark.parametrize(
    ("first", "second", "share"),
    [
        ([np.ones(2), np.ones(3)], [np.ones(2), np.zeros(3)], 0.5),
        ([1, 2], [1, 2, 3], 2 / 3),
        ({"a": 1.0}, {"a": 2.0}, 0),
        (None, None, 1),
        (np.array(["x", "y"], object), np.array(["x", "z"], object), 0.5),
    ],
)
def test_values_of_every_kind_have_a_share_of_equals(first: object, second: object, share: float) -> None:
    comparison = EqualityComparison("y")
    comparison.update(first, second, None, samples=1)
    assert comparison.result().equal == share
