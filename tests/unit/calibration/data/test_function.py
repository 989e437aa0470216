"""Feeds from ``package.module:function``."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from onnxq.calibration.data import InputSpec, open_data
from onnxq.errors import DataError

SPECS = [InputSpec("x", np.dtype(np.float32), ("n", 2))]
MODULE = """
import numpy as np

def feeds():
    for index in range(3):
        yield {"x": np.full((2, 2), index, np.float32)}, [index, index]

def lists():
    return [{"x": [[1.0, 2.0]]}]

def numbers():
    yield 3

def broken():
    yield {"x": np.zeros((1, 2), np.float32)}
    raise ValueError("no more luck")

def nothing():
    return None
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "my_feeds.py").write_text(MODULE)
    (tmp_path / "bad_feeds.py").write_text("import not_installed_anywhere")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    yield
    sys.modules.pop("my_feeds", None)


def refusal(source: str) -> DataError:
    with pytest.raises(DataError) as caught:
        list(open_data(source, SPECS).batches())
    return caught.value


def test_pairs_give_labels_and_each_reading_starts_over() -> None:
    data = open_data("my_feeds:feeds", SPECS)
    for _ in range(2):
        batches = list(data.batches())
        assert [batch.feeds["x"][0, 0] for batch in batches] == [0, 1, 2]
        assert [list(batch.labels) for batch in batches if batch.labels is not None] == [
            [0, 0],
            [1, 1],
            [2, 2],
        ]
    assert data.samples is None


def test_lists_become_arrays() -> None:
    assert next(open_data("my_feeds:lists", SPECS).batches()).feeds["x"].dtype == np.float32


def test_an_unknown_module() -> None:
    error = refusal("no_such_module:feeds")
    assert error.message == (
        "cannot import no_such_module (ModuleNotFoundError: No module named 'no_such_module')"
    )
    assert error.hint == "run onnxq where `import` finds the module, or set PYTHONPATH"


def test_a_module_that_fails_to_import() -> None:
    assert "No module named 'not_installed_anywhere'" in refusal("bad_feeds:feeds").message


def test_an_unknown_function() -> None:
    error = refusal("my_feeds:feed")
    assert error.message == "my_feeds has no function 'feed'"
    assert error.hint == "did you mean 'feeds'?"


def test_items_that_are_no_dicts() -> None:
    error = refusal("my_feeds:numbers")
    assert str(error) == "my_feeds:numbers, item 0: yielded int, not a dict of arrays"
    assert error.hint == "yield {input name: array}, or a pair of that and the labels"


def test_a_function_that_raises() -> None:
    error = refusal("my_feeds:broken")
    assert str(error) == "my_feeds:broken: raised ValueError: no more luck"
    assert isinstance(error.__cause__, ValueError)


def test_a_function_that_yields_nothing() -> None:
    assert "raised TypeError" in refusal("my_feeds:nothing").message
