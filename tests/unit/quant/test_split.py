from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxq.quant.encodings import Encoding
from onnxq.quant.split import (
    distinct_values,
    packed_bits,
    part_encoding,
    part_labels,
    part_of,
    rounded_around_zero,
    rounded_tightly,
    row_length,
    rows_of,
    squared_error,
    weight_of,
)

CUTS = ("kmeans", "range", "mse")
BITS = (2, 4, 8)


def some_rows(seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return rng.standard_t(4, size=(3, int(rng.integers(1, 400)))).astype(np.float32)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("scope", ["tensor", "channel", "block"])
def test_rows_become_the_weight_again(axis: int, scope: str) -> None:
    weight = np.random.default_rng(axis).normal(size=(8, 16, 12)).astype(np.float32)
    rows = rows_of(weight, axis, row_length(weight, axis, scope, 32))
    np.testing.assert_array_equal(weight_of(rows, weight, axis), weight)


def test_a_channels_row_holds_that_channel() -> None:
    weight = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    assert rows_of(weight, 1, row_length(weight, 1, "channel", 32)).tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize(("channel", "length"), [(512, 128), (192, 96), (160, 32), (100, 100), (64, 64)])
def test_blocks_divide_a_channel(channel: int, length: int) -> None:
    assert row_length(np.zeros((channel, 4)), 1, "block", 128) == length


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("seed", range(6))
def test_the_parts_add_up_exactly_and_do_not_overlap(cuts: str, seed: int) -> None:
    rows = some_rows(seed)
    labels = part_labels(rows, 3, cuts, 2)
    parts = [part_of(rows, labels, part) for part in range(3)]
    np.testing.assert_array_equal(parts[0] + parts[1] + parts[2], rows)
    for row, label in zip(rows, labels, strict=True):
        assert (np.diff(label[np.argsort(row, kind="stable")]) >= 0).all(), "parts are ranges of values"


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("seed", range(6))
def test_each_part_has_an_exact_zero_and_as_many_integers_as_its_bits(bits: int, seed: int) -> None:
    rows = some_rows(seed)
    labels = part_labels(rows, 3, "kmeans", bits)
    for part in range(3):
        values = part_of(rows, labels, part)
        for dtype in ("int8", f"uint{bits}"):
            encoding = part_encoding(values, bits, dtype)
            integers = encoding.quantize(values)
            span = integers.astype(int).max(axis=1) - integers.astype(int).min(axis=1)
            assert (span < 2**bits).all()
            restored = encoding.dequantize(integers)
            assert (restored[values == 0] == 0).all()
            assert (np.abs(restored - values) <= rounding_bound(encoding, values)).all()


def rounding_bound(encoding: Encoding, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Half a step, and the float32 rounding of a division and a product."""
    return encoding.scale[:, np.newaxis] / 2 + 4 * np.finfo(np.float32).eps * np.abs(values)


def test_values_half_way_between_integers_use_no_integer_too_many() -> None:
    ends = np.array([[-1.5, 1.5]], np.float32)
    integers = part_encoding(ends, 2, "int8").quantize(ends)
    assert integers.tolist() == [[-1, 1]]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("seed", range(6))
def test_joined_parts_are_the_sum_of_the_rounded_branches(bits: int, seed: int) -> None:
    rows = some_rows(seed)
    labels = part_labels(rows, 3, "kmeans", bits)
    total = np.zeros_like(rows)
    for part in range(3):
        encoding = part_encoding(part_of(rows, labels, part), bits, "int8")
        total += encoding.dequantize(encoding.quantize(part_of(rows, labels, part)))
    np.testing.assert_array_equal(rounded_around_zero(rows, labels, bits), total)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("seed", range(6))
def test_tight_grids_err_by_half_a_step_of_the_parts_own_range(bits: int, seed: int) -> None:
    rows = some_rows(seed)
    labels = part_labels(rows, 3, "range", bits)
    error = np.abs(rounded_tightly(rows, labels, bits) - rows)
    for index, (row, label) in enumerate(zip(rows, labels, strict=True)):
        for part in set(label.tolist()):
            step = np.ptp(row[label == part]) / (2**bits - 1)
            rounding = np.finfo(np.float32).eps * np.abs(row).max()
            assert error[index][label == part].max() <= step / 2 + rounding


@pytest.mark.parametrize("bits", BITS)
def test_tight_grids_use_no_more_values_than_they_have(bits: int) -> None:
    rows = some_rows(3)
    rounded = rounded_tightly(rows, part_labels(rows, 3, "range", bits), bits)
    assert distinct_values(rounded) <= 3 * 2**bits


@pytest.mark.parametrize("seed", range(6))
def test_looking_at_the_error_never_makes_it_larger(seed: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(4, 3000)).astype(np.float32)
    by_range, by_error = (squared_error(rows, part_labels(rows, 3, cuts, 2), 2) for cuts in ("range", "mse"))
    assert (by_error <= by_range).all()


def test_more_parts_never_cost_more() -> None:
    rows = np.random.default_rng(0).normal(size=(4, 500)).astype(np.float32)
    errors = [squared_error(rows, part_labels(rows, parts, "mse", 2), 2) for parts in (1, 2, 3)]
    assert (errors[2] < errors[1]).all()
    assert (errors[1] < errors[0]).all()


def test_a_table_of_twelve_values_needs_four_bits_and_its_share() -> None:
    assert packed_bits(12, 96, 8) == 4 + 12 * 8 / 96
    assert distinct_values(np.array([[1, 1, 2], [3, 3, 3]])) == 2
