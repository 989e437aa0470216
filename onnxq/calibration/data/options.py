"""The settings that say how data is read, one field for each command-line option."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from onnxq.errors import RecipeError, did_you_mean

Column = str | int
ChannelLayout = Literal["nchw", "nhwc"]
ChannelOrder = Literal["rgb", "bgr"]


@dataclass(frozen=True)
class DataOptions:
    """How to read and batch the data; every field has a default.

    Args:
        batch_size: Samples in a batch, 8 if not given. A model with a fixed batch axis decides itself.
        limit: Read at most this many samples.
        tokenizer: A folder with tokenizer.json, or that file. Default: the model's own folder.
        max_length: Cut texts to so many tokens. Default: the tokenizer's limit, at most 512.
        pad_to: Pad every text to so many tokens instead of to the longest of its batch.
        text_columns: One column with the text, or two for sentence pairs; names mean that the file
            has a header line, numbers (from 0) that it has none.
        label_column: The column, or in a .npz the array, with the labels.
        mean: Subtracted from pixels after scaling; one value, or one for each channel of the model.
        std: Divides pixels after ``mean``; as many values as ``mean``.
        size: Height and width to which images are resized.
        layout: Whether the model wants channels first (nchw) or last (nhwc).
        scale: Multiplied to integer pixels first; 1/255 if only ``mean`` or ``std`` is given.
        channel_order: The model's order of colours.
        seed: For random data.
        model_dir: Where the model lies; tokenizer and preprocessor files are looked for there.

    Raises:
        RecipeError: A value is out of its range.

    """

    batch_size: int | None = None
    limit: int | None = None
    tokenizer: Path | None = None
    max_length: int | None = None
    pad_to: int | None = None
    text_columns: tuple[Column, ...] = ()
    label_column: Column | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: tuple[int, int] | None = None
    layout: ChannelLayout | None = None
    scale: float | None = None
    channel_order: ChannelOrder = "rgb"
    seed: int = 0
    model_dir: Path | None = None

    def __post_init__(self) -> None:
        """Check every value, and read columns such as "3" as numbers."""
        for name in ("batch_size", "limit", "max_length", "pad_to"):
            _at_least_one(name, getattr(self, name))
        for side in self.size or ():
            _at_least_one("size", side)
        _one_of("layout", self.layout, get_args(ChannelLayout))
        _one_of("channel_order", self.channel_order, get_args(ChannelOrder))
        self._check_columns()
        self._check_lengths()
        self._check_pixels()

    def _check_columns(self) -> None:
        object.__setattr__(self, "text_columns", tuple(_column(c) for c in self.text_columns))
        if self.label_column is not None:
            object.__setattr__(self, "label_column", _column(self.label_column))
        if len(self.text_columns) > 2:
            raise RecipeError(
                f"{len(self.text_columns)} columns given",
                where="text_columns",
                hint="give one column, or two for sentence pairs",
            )

    def _check_lengths(self) -> None:
        if self.max_length and self.pad_to and self.max_length > self.pad_to:
            raise RecipeError(
                f"texts of up to {self.max_length} tokens do not fit into {self.pad_to}",
                where="max_length",
                hint="make pad_to at least as large as max_length",
            )

    def _check_pixels(self) -> None:
        if any(value == 0 for value in self.std or ()):
            raise RecipeError("a standard deviation of 0 divides by zero", where="std", hint="use 1")
        if self.mean and self.std and len(self.mean) != len(self.std):
            raise RecipeError(
                f"{len(self.std)} values beside {len(self.mean)} of mean",
                where="std",
                hint="give one value to each, or one for each channel to both",
            )


def _at_least_one(name: str, value: int | None) -> None:
    if value is not None and not 1 <= value <= sys.maxsize:
        what, hint = "is not a positive number", "give 1 or more"
        if value > sys.maxsize:
            what, hint = "is more than a machine can count to", "give a smaller one"
        raise RecipeError(f"{value} {what}", where=name, hint=hint)


def _one_of(name: str, value: str | None, choice: tuple[str, ...]) -> None:
    if value is not None and value not in choice:
        raise RecipeError(f"unknown value {value!r}", where=name, hint=did_you_mean(value, choice))


def _column(column: Column) -> Column:
    return int(column) if isinstance(column, str) and column.isdecimal() else column
