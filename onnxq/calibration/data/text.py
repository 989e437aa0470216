"""Token ids from text files, with the tokenizer that lies beside the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxq.calibration.data.base import ArrayRows, Chunk, InputSpec
from onnxq.calibration.data.options import DataOptions
from onnxq.calibration.data.records import Columns, Record, read_records
from onnxq.calibration.data.settings import read_settings
from onnxq.errors import DataError, TargetError
from onnxq.reading import UnreadableError, untrusted
from onnxq.runtime.batch import Array

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

MAX_LENGTH = 512
PAD_NAMES = ("[PAD]", "<pad>")
TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
EXPORT_AGAIN = "export the tokenizer again"


@dataclass(frozen=True)
class TextSource:
    """Texts of one file, tokenized ``rows`` at a time and padded together."""

    path: Path
    columns: Columns
    inputs: Sequence[InputSpec]
    tokenizer: Tokenizer
    rows: int
    limit: int | None = None
    warning: str | None = None

    def count(self) -> int:
        """Return the number of records, up to ``limit``; reads the file without tokenizing it."""
        return sum(1 for _ in self._records())

    def chunks(self) -> Iterator[Chunk]:
        """Tokenize batch after batch."""
        for records in _batched(self._records(), self.rows):
            encodings = self._encoded(records)
            self._check_not_empty(records, encodings)
            arrays = self._wanted(_arrays(encodings))
            labels = _labels(records)
            yield Chunk(
                {name: ArrayRows(array) for name, array in arrays.items()},
                f"{self.path}, lines {records[0].line} to {records[-1].line}",
                None if labels is None else ArrayRows(labels),
            )

    def _encoded(self, records: Sequence[Record]) -> Sequence[Encoding]:
        try:
            with untrusted():
                found: Sequence[Encoding] = self.tokenizer.encode_batch([_text(record) for record in records])
        except UnreadableError as error:
            raise DataError(
                f"the tokenizer fails on these texts ({error})",
                where=f"{self.path}, lines {records[0].line} to {records[-1].line}",
                hint=EXPORT_AGAIN,
            ) from error
        return found

    def _records(self) -> Iterator[Record]:
        return islice(read_records(self.path, self.columns), self.limit)

    def _wanted(self, arrays: dict[str, Array]) -> dict[str, Array]:
        """Return the arrays the model has an input for, or all if it has none, for the message."""
        names = {spec.name for spec in self.inputs}
        return {name: array for name, array in arrays.items() if name in names} or arrays

    def _check_not_empty(self, records: Sequence[Record], encodings: Sequence[Encoding]) -> None:
        for record, encoding in zip(records, encodings, strict=True):
            if not any(encoding.attention_mask):
                raise DataError(
                    "the text has no tokens",
                    where=f"{self.path}, line {record.line}",
                    hint="leave the line out",
                )


def open_text(path: Path, inputs: Sequence[InputSpec], options: DataOptions, rows: int) -> TextSource:
    """Return the reader of ``path``; the tokenizer is loaded and set up here.

    Raises:
        TargetError: The tokenizers package is missing.
        DataError: There is no tokenizer, it cannot be read, or it has no padding token.

    """
    columns = Columns(options.text_columns, options.label_column)
    file = _tokenizer_file(path, options)
    tokenizer = _set_up(_load(file), file, options, _fixed_length(inputs))
    return TextSource(path, columns, inputs, tokenizer, rows, options.limit)


def _tokenizer_file(path: Path, options: DataOptions) -> Path:
    folder = options.tokenizer or options.model_dir
    if folder is None:
        raise DataError("a text file needs a tokenizer", where=str(path), hint="give --tokenizer FOLDER")
    file = folder if folder.is_file() else folder / TOKENIZER_FILE
    if not file.is_file():
        raise DataError(
            f"no {TOKENIZER_FILE} in it",
            where=str(folder),
            hint="give --tokenizer FOLDER, the one that was exported with the model",
        )
    return file


def _load(file: Path) -> Tokenizer:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise TargetError(
            "text data needs the tokenizers package", where=str(file), hint='pip install "onnxq[text]"'
        ) from error
    try:
        with untrusted():
            return Tokenizer.from_file(str(file))
    except UnreadableError as error:
        raise DataError(f"not a readable tokenizer ({error})", where=str(file), hint=EXPORT_AGAIN) from error


def _set_up(tokenizer: Tokenizer, file: Path, options: DataOptions, fixed: int | None) -> Tokenizer:
    """Replace the file's own truncation and padding by ours."""
    config = _read_config(file.parent / CONFIG_FILE)
    length = options.pad_to or fixed
    longest = options.max_length or _sane_length(config)
    padding = tokenizer.padding or {}
    token = _pad_token(tokenizer, padding, config, file)
    side = padding.get("direction") or config.get("padding_side") or "right"
    if side not in ("left", "right"):
        raise DataError(
            f"padding_side is {side!r}, neither 'left' nor 'right'",
            where=str(file.parent / CONFIG_FILE),
            hint=EXPORT_AGAIN,
        )
    tokenizer.enable_truncation(min(longest, length or longest))
    tokenizer.enable_padding(
        direction=side,
        length=length,
        pad_token=token,
        pad_id=tokenizer.token_to_id(token),
        pad_type_id=padding.get("pad_type_id", 0),
    )
    return tokenizer


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    config = read_settings(path, hint=EXPORT_AGAIN)
    return config if isinstance(config, dict) else {}


def _sane_length(config: dict[str, Any]) -> int:
    """Return ``model_max_length``, at most 512; some tokenizers state 10**30 for "no limit"."""
    stated = config.get("model_max_length")
    return int(min(stated, MAX_LENGTH)) if isinstance(stated, int | float) and stated >= 1 else MAX_LENGTH


def _pad_token(tokenizer: Tokenizer, padding: dict[str, Any], config: dict[str, Any], file: Path) -> str:
    """Return the padding token: tokenizer.json's, the config's, a usual one, or the end-of-text token."""
    special = _read_config(file.parent / "special_tokens_map.json")
    stated = [config.get("pad_token"), special.get("pad_token")]
    ends = [config.get("eos_token"), special.get("eos_token")]
    for entry in (padding.get("pad_token"), *stated, *PAD_NAMES, *ends):
        token = entry.get("content") if isinstance(entry, dict) else entry
        if isinstance(token, str) and tokenizer.token_to_id(token) is not None:
            return token
    raise DataError(
        "the tokenizer has no padding token",
        where=str(file),
        hint='name one of its tokens as "pad_token" in tokenizer_config.json',
    )


def _fixed_length(inputs: Sequence[InputSpec]) -> int | None:
    """Return the sequence length that the model's shapes prescribe, if they do."""
    shape = next((spec.shape for spec in inputs if spec.name == "input_ids"), None)
    axis = shape[1] if shape and len(shape) == 2 else None
    return axis if isinstance(axis, int) else None


def _text(record: Record) -> str | tuple[str, str]:
    return record.texts[0] if len(record.texts) == 1 else (record.texts[0], record.texts[1])


def _arrays(encodings: Sequence[Encoding]) -> dict[str, Array]:
    """Return int64 arrays of shape (rows, tokens)."""
    return {
        "input_ids": np.array([encoding.ids for encoding in encodings], np.int64),
        "attention_mask": np.array([encoding.attention_mask for encoding in encodings], np.int64),
        "token_type_ids": np.array([encoding.type_ids for encoding in encodings], np.int64),
    }


def _labels(records: Sequence[Record]) -> Array | None:
    labels = [record.label for record in records if record.label is not None]
    return np.array(labels) if labels else None


def _batched(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    iterator = iter(records)
    while batch := list(islice(iterator, size)):
        yield batch
