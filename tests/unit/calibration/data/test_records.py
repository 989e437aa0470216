"""Text files: columns, labels, and what each malformed one says."""

from pathlib import Path

import pytest

from onnxq.calibration.data.records import Columns, Record, read_records
from onnxq.errors import DataError


def records(path: Path, text: str | bytes, columns: Columns | None = None) -> list[Record]:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return list(read_records(path, columns or Columns()))


@pytest.mark.parametrize(
    ("name", "text", "columns"),
    [
        ("d.csv", "id,text,label\n7,a b,1\n8,c,0\n", Columns()),
        ("d.csv", "id;sentence;label\r\n7;a b;1\r\n8;c;0\r\n", Columns()),
        ("d.csv", "7,a b,1\n8,c,0\n", Columns((1,), 2)),
        ("d.csv", "7\ta b\t1\n8\tc\t0\n", Columns((1,), 2)),
        ("d.tsv", "body\tclass\na b\t1\nc\t0\n", Columns(("body",), "class")),
        ("d.tsv", "body\tclass\na b\t1\nc\t0\n", Columns((0,), "class")),
        ("d.jsonl", '{"text": "a b", "label": 1}\n\n{"text": "c", "label": 0}\n', Columns()),
        ("d.jsonl", '\ufeff{"t": "a b", "y": 1}\n{"t": "c", "y": 0}\n', Columns(("t",), "y")),
    ],
)
def test_the_same_records_from_each_format(tmp_path: Path, name: str, text: str, columns: Columns) -> None:
    found = records(tmp_path / name, text, columns)
    assert [(record.texts, record.label) for record in found] == [(("a b",), 1), (("c",), 0)]


def test_plain_lines_skip_the_blank_ones(tmp_path: Path) -> None:
    found = records(tmp_path / "d.txt", "one\n\n  two \r\n")
    assert [(record.line, record.texts) for record in found] == [(1, ("one",)), (3, ("two",))]


def test_pairs(tmp_path: Path) -> None:
    found = records(tmp_path / "d.tsv", "x\ta\tb\n", Columns((1, 2)))
    assert found[0].texts == ("a", "b")


def test_a_single_column_needs_no_name(tmp_path: Path) -> None:
    assert [record.texts for record in records(tmp_path / "d.csv", "a\nb\n")] == [("a",), ("b",)]


def test_quotes_hold_separators_in_csv_and_nothing_in_tsv(tmp_path: Path) -> None:
    assert records(tmp_path / "d.csv", 'text\n"a, ""b"""\n')[0].texts == ('a, "b"',)
    assert records(tmp_path / "d.tsv", 'text\n"a\n')[0].texts == ('"a',)


@pytest.mark.parametrize(("text", "label"), [("3", 3), ("3.5", 3.5), ("spam", "spam")])
def test_labels_are_the_simplest_type(tmp_path: Path, text: str, label: float | str) -> None:
    found = records(tmp_path / "d.csv", f"text,label\na,{text}\n")[0].label
    assert found == label
    assert type(found) is type(label)


@pytest.mark.parametrize(
    ("name", "text", "columns", "message", "hint"),
    [
        (
            "d.csv",
            "txet,label\na,1\n",
            Columns(("text",)),
            "line 1: no column 'text'",
            "did you mean 'txet'?",
        ),
        (
            "d.csv",
            "a,b\n",
            Columns(),
            "line 1: no column is called 'text' or 'sentence'",
            "this line has: 'a', 'b'",
        ),
        ("d.csv", "text\na\n", Columns((), "labl"), "line 1: no column 'labl'", "choose from: text"),
        ("d.csv", "a,b\nc\n", Columns((1,)), "line 2: 1 columns, so there is none with number 1", "from 0"),
        ("d.csv", 'text,label\n"a"b,1\n', Columns(), "line 2: not well-formed", "double the quotes"),
        (
            "d.csv",
            'text\n"never closed\n',
            Columns(),
            "not well-formed (unexpected end of data)",
            "double the quotes",
        ),
        ("d.csv", b"text\n\xff\n", Columns(), "d.csv: not UTF-8 text (byte 0xff)", "save it as UTF-8"),
        ("d.txt", "a\n", Columns((0,)), "a .txt file is one text for each line", "leave --text-column"),
        (
            "d.jsonl",
            '{"text": "a"}\n{"text": \n',
            Columns(),
            "line 2: not valid JSON",
            "each line is one JSON object",
        ),
        ("d.jsonl", "[1]\n", Columns(), "line 1: holds a list, not an object", 'write {"text"'),
        ("d.jsonl", '{"txt": "a"}\n', Columns(("text",)), "line 1: no field 'text'", "did you mean 'txt'?"),
        ("d.jsonl", '{"body": "a"}\n', Columns(), "line 1: no column is called", "this line has: 'body'"),
        (
            "d.jsonl",
            '{"text": 3}\n',
            Columns(),
            "line 1: the text is int, not a string",
            "another --text-column",
        ),
    ],
)
def test_malformed_files(
    tmp_path: Path, name: str, text: str | bytes, columns: Columns, message: str, hint: str
) -> None:
    with pytest.raises(DataError) as caught:
        records(tmp_path / name, text, columns)
    assert message in str(caught.value)
    assert hint in str(caught.value.hint)


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.txt: cannot be read \(No such file"):
        list(read_records(tmp_path / "gone.txt", Columns()))
