"""Two versions are told apart by what they write: here, one command and one that quantizes otherwise."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from onnxq.ir.store import save_model
from onnxq.ir.text import parse

REPOSITORY = Path(__file__).resolve().parent.parent.parent
ONNXQ = Path(sys.executable).with_name("onnxq")
SCRIPT = """#!/bin/sh
[ "$1" = compile ] && set -- "$@" --set encode-weights.granularity=tensor
exec "{}" "$@"
"""


@pytest.fixture
def otherwise(tmp_path: Path) -> Path:
    """Return a command that gives a weight one scale, where the recipe gives it one for each channel."""
    script = tmp_path / "otherwise"
    script.write_text(SCRIPT.format(ONNXQ))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script


def replayed(models: Path, folder: Path, after: Path) -> tuple[int, list[dict[str, Any]]]:
    save_model(parse((models / "mlp_3d.onnxtxt").read_text()), folder / "mlp.onnx")
    command = [sys.executable, REPOSITORY / "tools" / "replay.py", "--before", ONNXQ, "--after", after]
    options = [
        "--case",
        f"mlp:{folder / 'mlp.onnx'}:random",
        "--recipe",
        "cpu",
        "--no-choose",
        "--all",
        "--json",
    ]
    done = subprocess.run(
        [*command, *options],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONSAFEPATH": ""},  # tools import each other
    )
    return done.returncode, json.loads(done.stdout)["rows"]


def test_the_same_version_writes_the_same(models: Path, tmp_path: Path) -> None:
    code, (row,) = replayed(models, tmp_path, ONNXQ)
    assert (code, row["differs"], row["before"]) == (0, "nothing", "compiled")


def test_another_version_differs_and_is_compared_with_the_source(
    models: Path, tmp_path: Path, otherwise: Path
) -> None:
    code, (row,) = replayed(models, tmp_path, otherwise)
    assert code == 1
    assert row["differs"].endswith("rewritten")
    before, after = (float(row[side].removesuffix(" dB")) for side in ("before", "after"))
    assert before > after  # one scale fits less well
