"""Settings that are out of range are refused by name."""

from typing import Any

import pytest

from onnxq.calibration.data import DataOptions
from onnxq.errors import RecipeError


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"batch_size": 0}, "batch_size: 0 is not a positive number", "give 1 or more"),
        ({"limit": -1}, "limit: -1 is not a positive number", "give 1 or more"),
        ({"limit": 10**30}, f"limit: {10**30} is more than a machine can count to", "give a smaller one"),
        ({"size": (224, 0)}, "size: 0 is not a positive number", "give 1 or more"),
        ({"layout": "nchv"}, "layout: unknown value 'nchv'", "did you mean 'nchw'?"),
        ({"channel_order": "grb"}, "channel_order: unknown value 'grb'", "did you mean 'rgb'?"),
        ({"std": (0.0,)}, "std: a standard deviation of 0 divides by zero", "use 1"),
        (
            {"mean": (1.0, 2.0, 3.0), "std": (1.0,)},
            "std: 1 values beside 3 of mean",
            "give one value to each",
        ),
        (
            {"max_length": 9, "pad_to": 8},
            "max_length: texts of up to 9 tokens do not fit into 8",
            "make pad_to",
        ),
        ({"text_columns": ("a", "b", "c")}, "text_columns: 3 columns given", "two for sentence pairs"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        DataOptions(**options)
    assert str(caught.value) == message
    assert hint in str(caught.value.hint)


def test_columns_written_as_numbers_are_numbers() -> None:
    options = DataOptions(text_columns=("5", "body"), label_column="0")
    assert options.text_columns == (5, "body")
    assert options.label_column == 0
