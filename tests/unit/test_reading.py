"""Whatever a library raises while it reads is one error of one line; our own errors and interrupts pass."""

import pytest

from onnxq.errors import DataError, RecipeError
from onnxq.limits import Limit
from onnxq.reading import UnreadableError, parse_json, untrusted


class Panic(BaseException):
    """As Rust's panics come through: no Exception."""


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (KeyError("a\nb"), "'a\\nb'"),
        (Panic("called `unwrap()`\non None"), "called `unwrap()` on None"),
        (ValueError(), "ValueError"),
        (RecursionError(), "it is nested too deeply"),
        (MemoryError(), "it asks for more memory than there is"),
    ],
)
def test_what_a_library_raises_becomes_one_line(raised: BaseException, message: str) -> None:
    with pytest.raises(UnreadableError) as caught, untrusted():
        raise raised
    assert str(caught.value) == message


@pytest.mark.parametrize("raised", [DataError("ours"), KeyboardInterrupt(), SystemExit(1)])
def test_our_own_errors_and_interrupts_pass(raised: BaseException) -> None:
    with pytest.raises(type(raised)), untrusted():
        raise raised


@pytest.mark.parametrize("text", ["[" * 100_000, "{", '{"a": 1', "9" * 5000, ""])
def test_damaged_json_is_unreadable(text: str) -> None:
    with pytest.raises(UnreadableError):
        parse_json(text)


def test_a_limit_is_raised_by_its_variable_and_by_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = Limit("THINGS", 10, "things")
    limit.check(10, "it has", "a file")
    with pytest.raises(DataError) as caught:
        limit.check(11, "it has", "a file", DataError)
    assert str(caught.value) == "a file: it has 11 things, and the limit is 10"
    assert caught.value.hint == "if you trust the file, raise the limit: ONNXQ_MAX_THINGS=16"
    monkeypatch.setenv("ONNXQ_MAX_THINGS", "11")
    limit.check(11, "it has", "a file")
    monkeypatch.setenv("ONNXQ_MAX_THINGS", "much")
    with pytest.raises(RecipeError, match="'much' is not a whole number"):
        limit.check(1, "it has", "a file")
