"""Texts and labels from .txt, .csv, .tsv and .jsonl files, one record after the other."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from onnxq.calibration.data.options import Column
from onnxq.errors import DataError, did_you_mean
from onnxq.limits import LINE_CHARACTERS
from onnxq.reading import UnreadableError, parse_json

SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl")
TEXT_NAMES = ("text", "sentence")
LABEL_NAME = "label"
Label = str | int | float


@dataclass(frozen=True)
class Record:
    """One text, or a pair of them, with its label if the file has one."""

    line: int
    texts: tuple[str, ...]
    label: Label | None


@dataclass(frozen=True)
class Columns:
    """Which columns hold the texts and the label; empty and None mean the usual names."""

    texts: tuple[Column, ...] = ()
    label: Column | None = None

    @property
    def named(self) -> bool:
        """Whether a header line is needed to find the columns."""
        asked = (*self.texts, *([] if self.label is None else [self.label]))
        return any(isinstance(column, str) for column in asked)


def read_records(path: Path, columns: Columns) -> Iterator[Record]:
    """Yield the records of ``path``; blank lines are skipped.

    Raises:
        DataError: The file is missing, not UTF-8 or malformed, or lacks a column.

    """
    with _opened(path) as file:
        if path.suffix == ".jsonl":
            yield from _json_lines(file, path, columns)
        elif path.suffix == ".txt":
            yield from _plain_lines(file, path, columns)
        else:
            yield from _table(file, path, columns)


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        raise DataError(
            f"not UTF-8 text (byte 0x{error.object[error.start]:02x})",
            where=str(path),
            hint="save it as UTF-8",
        ) from error
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror})", where=str(path), hint="check its name and rights"
        ) from error


def _lines(file: TextIO, path: Path) -> Iterator[str]:
    """Yield the lines, as iterating the file does, none of them longer than the limit."""
    most = LINE_CHARACTERS.value
    while line := file.readline(most + 1):
        LINE_CHARACTERS.check(len(line), "a line has at least", str(path), DataError)
        yield line


def _plain_lines(file: TextIO, path: Path, columns: Columns) -> Iterator[Record]:
    if columns.texts or columns.label is not None:
        raise DataError(
            "a .txt file is one text for each line and has no columns",
            where=str(path),
            hint="leave --text-column and --label-column out, or name the file .tsv or .csv",
        )
    for number, line in enumerate(_lines(file, path), 1):
        if line.strip():
            yield Record(number, (line.strip(),), None)


def _json_lines(file: TextIO, path: Path, columns: Columns) -> Iterator[Record]:
    for number, line in enumerate(_lines(file, path), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        row = _parse_object(line, where)
        names = [str(column) for column in columns.texts] or [_usual_text(row, where)]
        texts = [_value(row, name, where) for name in names]
        label = str(LABEL_NAME if columns.label is None else columns.label)
        wanted = columns.label is not None or label in row
        yield Record(number, _strings(texts, where), _label(row, label, where) if wanted else None)


def _parse_object(line: str, where: str) -> dict[str, Any]:
    try:
        row = parse_json(line)
    except UnreadableError as error:
        raise DataError(
            f"not valid JSON ({error})", where=where, hint="each line is one JSON object"
        ) from error
    if not isinstance(row, dict):
        raise DataError(
            f"holds a {type(row).__name__}, not an object", where=where, hint='write {"text": "..."}'
        )
    return row


def _value(row: dict[str, Any], name: str, where: str) -> Any:
    if name not in row:
        raise DataError(f"no field {name!r}", where=where, hint=did_you_mean(name, row))
    return row[name]


def _label(row: dict[str, Any], name: str, where: str) -> Label | None:
    value = _value(row, name, where)
    if value is not None and not isinstance(value, Label):
        raise DataError(
            f"the label is a {type(value).__name__}, not a number or a string",
            where=where,
            hint="choose another --label-column",
        )
    return value


def _strings(values: Sequence[Any], where: str) -> tuple[str, ...]:
    for value in values:
        if not isinstance(value, str):
            raise DataError(
                f"the text is {type(value).__name__}, not a string",
                where=where,
                hint="choose another --text-column",
            )
    return tuple(values)


def _table(file: TextIO, path: Path, columns: Columns) -> Iterator[Record]:
    first = next(_lines(file, path), "")
    file.seek(0)
    delimiter = _delimiter(first, path)
    reader = _reader(_lines(file, path), delimiter)
    indices: tuple[tuple[int, ...], int | None] | None = None
    for cells in _rows(reader, path):
        where = f"{path}, line {reader.line_num}"
        if indices is None:
            indices, is_header = _find_columns(cells, columns, where)
            if is_header:
                continue
        texts, label = indices
        yield Record(
            reader.line_num,
            tuple(_cell(cells, index, where) for index in texts),
            None if label is None else _number(_cell(cells, label, where)),
        )


def _reader(file: Iterator[str], delimiter: str) -> Any:
    """Return a csv reader; in tab-separated files a quote is a letter like any other."""
    if delimiter == "\t":
        return csv.reader(file, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    return csv.reader(file, delimiter=delimiter, strict=True)


def _rows(reader: Any, path: Path) -> Iterator[list[str]]:
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield cells
    except csv.Error as error:
        raise DataError(
            f"not well-formed ({error})",
            where=f"{path}, line {reader.line_num}",
            hint='double the quotes inside a quoted field: "say ""hi"""',
        ) from error


def _delimiter(first_line: str, path: Path) -> str:
    """Return tab for .tsv and for lines that have one, else the more frequent of comma and semicolon."""
    if path.suffix == ".tsv" or "\t" in first_line:
        return "\t"
    return max(",;", key=first_line.count)


def _find_columns(
    first: list[str], columns: Columns, where: str
) -> tuple[tuple[tuple[int, ...], int | None], bool]:
    """Return the text and label columns, and whether ``first`` is a header line."""
    usual = dict(zip(first, range(len(first)), strict=True))
    if columns.named or (not columns.texts and any(name in usual for name in TEXT_NAMES)):
        names = columns.texts or (_usual_text(usual, where),)
        label = columns.label if columns.label is not None else usual.get(LABEL_NAME)
        texts = tuple(_named(usual, name, where) for name in names)
        return (texts, None if label is None else _named(usual, label, where)), True
    if not columns.texts and len(first) > 1:
        raise _which_column(first, where)
    texts = tuple(int(column) for column in columns.texts) or (0,)
    return (texts, None if columns.label is None else int(columns.label)), False


def _named(header: dict[str, int], column: Column, where: str) -> int:
    if isinstance(column, int):
        return column
    if column not in header:
        raise DataError(f"no column {column!r}", where=where, hint=did_you_mean(column, header))
    return header[column]


def _usual_text(fields: dict[str, Any], where: str) -> str:
    for name in TEXT_NAMES:
        if name in fields:
            return name
    raise _which_column(list(fields), where)


def _which_column(fields: list[str], where: str) -> DataError:
    shown = ", ".join(repr(field[:30]) for field in fields[:8])
    return DataError(
        "no column is called 'text' or 'sentence'",
        where=where,
        hint=f"choose one with --text-column, by name or by number from 0; this line has: {shown}",
    )


def _cell(cells: list[str], index: int, where: str) -> str:
    if index >= len(cells):
        raise DataError(
            f"{len(cells)} columns, so there is none with number {index}",
            where=where,
            hint="columns are counted from 0; check the line's separators",
        )
    return cells[index]


def _number(text: str) -> Label:
    """Return ``text`` as the simplest of int, float and string."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
