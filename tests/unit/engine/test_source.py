"""A source is hashed once while others work on it, and read again only where a look does not tell."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from onnxq.engine import source as module
from onnxq.engine.source import Source
from onnxq.errors import ModelError
from onnxq.ir.store import model_digest, save_model
from onnxq.ir.text import parse

TEXT = '<ir_version: 10, opset_import: ["" : 21]> main (float[N,4] x) => (float[N,4] y) { y = Relu(x) }'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_model(parse(TEXT), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Note each time that the files are read as a whole."""
    seen: list[Path] = []

    def read(path: Path) -> str:
        seen.append(path)
        return model_digest(path)

    monkeypatch.setattr(module, "model_digest", read)
    return seen


def hidden(path: Path) -> None:
    """Change a byte, and set the time of the content back."""
    was = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))


def test_the_digest_is_that_of_the_files(path: Path) -> None:
    assert Source.of(path).digest == model_digest(path)


def test_what_looks_as_long_before_is_not_read_again(
    path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TICK", -(10**12))  # as if it had been written long ago
    source = Source.of(path)
    assert source.digest
    source.verify()
    assert reads == [path]


def test_what_was_written_just_before_is_read_again(path: Path, reads: list[Path]) -> None:
    source = Source.of(path)
    assert source.digest
    source.verify()
    assert reads == [path, path]


@pytest.mark.parametrize("tick", [module.TICK, -(10**12)])
@pytest.mark.parametrize("change", [hidden, Path.unlink])
def test_a_change_is_noticed(
    path: Path, tick: int, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TICK", tick)
    source = Source.of(path)
    assert source.digest
    change(path)
    with pytest.raises(ModelError, match="it has changed while it was worked on"):
        source.verify()


def test_an_error_of_hashing_is_raised_where_the_digest_is_asked_for(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ModelError("no longer there")

    monkeypatch.setattr(module, "model_digest", fail)
    source = Source.of(path)
    with pytest.raises(ModelError, match="no longer there"):
        _ = source.digest
