"""What tuning remembers: in a file that may be missing, damaged, or have no place to lie."""

import json
from pathlib import Path

import pytest

from onnxq.search.remembered import Memory, cache_file

PLACE = "onnxruntime 1 | a processor | threads 1 | x 1 | "
KNOWN = {"pass a": True, "pass b": False}


@pytest.mark.parametrize(
    "content",
    [
        b"{ not json",
        b"",
        b"\xff\xfe",
        b"5",
        b"null",
        b"[]",
        b'[["a", "b"]]',
        b'"text"',
        b"[" * 100_000,
        json.dumps({PLACE: 5}).encode(),
        json.dumps({PLACE: ["pass a", "pass b"]}).encode(),
        json.dumps({PLACE: "pass a, pass b"}).encode(),
        json.dumps({PLACE: {"pass a": "yes", "pass b": 1}}).encode(),
        json.dumps({PLACE: {"pass a": None, "pass b": {}}}).encode(),
        json.dumps({PLACE: {"pass a": True}}).encode(),
        None,
    ],
)
def test_what_is_damaged_is_measured_again_and_then_remembered(tmp_path: Path, content: bytes | None) -> None:
    memory = Memory(tmp_path / "cache" / "tuning.json", PLACE)
    if content is not None:
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache" / "tuning.json").write_bytes(content)
    assert memory.recall([*KNOWN]) is None
    memory.keep(KNOWN)
    assert memory.recall([*KNOWN]) == KNOWN


def test_what_is_whole_is_kept_beside_what_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "tuning.json").write_text(json.dumps({"elsewhere": {"pass c": True}, "damaged": 5}))
    Memory(tmp_path / "tuning.json", PLACE).keep({"pass a": True})
    kept = json.loads((tmp_path / "tuning.json").read_text())
    assert kept == {"elsewhere": {"pass c": True}, PLACE: {"pass a": True}}


def test_a_cache_that_cannot_be_written_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    memory = Memory(tmp_path / "file" / "tuning.json", PLACE)
    memory.keep({"pass a": True})
    assert memory.recall([*KNOWN]) is None
    assert (tmp_path / "file").read_text() == "mine"


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    assert cache_file() is None
    memory = Memory(None, PLACE)
    memory.keep({"pass a": True})
    assert memory.recall([*KNOWN]) is None
