"""How commands open sessions: with entries that are given, over those of the manifest beside a model."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from onnxq.target import TARGETS

pytest.importorskip("onnxruntime", reason="runs models")

BAD = "session.intra_op_thread_affinities=nowhere"
TOLD = "Processor id must consist of only digits: nowhere"
"""What ONNX Runtime says of that entry: the proof that it has come there."""
BENCH = ("--shape", "x=1x5x4", "--rounds", 5, "--seconds", 0, "--threads", 2)


@pytest.fixture
def own(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the model, which a manifest may be put beside; one target asks for the bad entry."""
    key, _, value = BAD.partition("=")
    monkeypatch.setitem(TARGETS, "odd", replace(TARGETS["cpu"], session_options={"MatMul": {key: value}}))
    return Path(shutil.copy(model, tmp_path / "own.onnx"))


def ask(model: Path, text: str) -> None:
    key, _, value = text.partition("=")
    content = json.dumps({"schema_version": 1, "session_options": {key: value}, "what": "else"})
    model.with_suffix(".manifest.json").write_text(content)


@pytest.mark.parametrize("command", ["bench", "validate"])
def test_entries_reach_the_sessions(onnxq, model: Path, command: str) -> None:
    arguments = [command, model, model, "--data", "random", "--limit", 2, "--threads", 2]
    result = onnxq(*arguments, "--session-option", BAD)
    assert result.exit_code == 2
    assert TOLD in result.stderr
    options = ("--session-option", "session.disable_prepacking=1", "--session-option", "my.own=a=b")
    assert onnxq(*arguments, *options).exit_code == 0


def test_a_manifest_is_asked_without_being_named(onnxq, model: Path, data: Path, own: Path) -> None:
    ask(own, BAD)
    for arguments in (
        ("bench", model, own, *BENCH, "--no-memory"),
        ("validate", model, own, "--data", data, "--threads", 2),
        ("diff", model, own, "--data", data, "--threads", 2, "--fail-on", "changes<0"),
        ("inspect", own, "--kernels", "--threads", 2),
    ):
        result = onnxq(*arguments)
        assert result.exit_code == 2, arguments
        assert TOLD in result.stderr, arguments


def test_what_is_given_goes_over_the_manifest(onnxq, own: Path) -> None:
    ask(own, BAD)
    mended = onnxq("bench", own, *BENCH, "--session-option", "session.intra_op_thread_affinities=1")
    assert mended.exit_code == 0, mended.stderr
    assert "as its manifest asks" not in mended.stderr
    ask(own, "ep.cuda.fpa_intb_gemm=1")
    asked = onnxq("bench", own, *BENCH)
    assert asked.exit_code == 0, asked.stderr
    assert "own.onnx: as its manifest asks, ep.cuda.fpa_intb_gemm=1\n" in asked.stderr
