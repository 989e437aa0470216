"""Padding: what is real of a value."""

import numpy as np
import pytest

from onnxq.calibration.masks import TokenAxes, padding, without_padding

KEEP = np.array([[True, True, False], [True, False, True], [False, False, False]])


def test_no_mask_and_a_full_mask_need_no_work() -> None:
    assert padding({"x": np.ones((2, 3))}) is None
    assert padding({"attention_mask": np.ones((2, 3), np.int64)}) is None
    assert padding({"attention_mask": np.zeros((2, 1, 3, 3), np.float32)}) is None


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.float32, np.bool_])
def test_zeros_are_padding(dtype: type) -> None:
    keep = padding({"attention_mask": KEEP.astype(dtype)})
    assert keep is not None
    np.testing.assert_array_equal(keep, KEEP)


@pytest.mark.parametrize(
    ("shape", "axes"), [((3, 3, 5), (1,)), ((3, 2, 3, 5), (2,)), ((3, 2, 3, 3), (2, 3)), ((3, 5, 3), (2,))]
)
def test_only_real_tokens_are_left(shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape)).reshape(shape)
    parts = list(without_padding(values, TokenAxes(axes), KEEP))
    expected = [np.delete(values[0], 2, axis=axes[0] - 1), np.delete(values[1], 1, axis=axes[0] - 1)]
    if len(axes) == 2:
        expected = [np.delete(expected[0], 2, axis=axes[1] - 1), np.delete(expected[1], 1, axis=axes[1] - 1)]
    assert len(parts) == 2, "a sample without tokens has no part"
    for part, real in zip(parts, expected, strict=True):
        np.testing.assert_array_equal(part[0], real)


def test_folded_tokens_are_split_by_sample() -> None:
    values = np.arange(18).reshape(9, 2)
    parts = list(without_padding(values, TokenAxes((1,), folded=True), KEEP))
    assert [part.tolist() for part in parts] == [[[[0, 1], [2, 3]]], [[[6, 7], [10, 11]]]]


def test_tokens_in_a_row_are_not_copied() -> None:
    values = np.zeros((3, 3, 5))
    first, second = without_padding(values, TokenAxes((1,)), KEEP)
    assert np.shares_memory(first, values)
    assert not np.shares_memory(second, values), "tokens with a hole between them are"
