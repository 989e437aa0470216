"""onnxq validate --invariance."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from typer.testing import Result

Onnxq = Callable[..., Result]


def compiled(onnxq: Onnxq, model: Path, data: Path, output: Path, recipe: str) -> Path:
    arguments = ["--recipe", recipe, "--no-bench", "--no-validate"]
    result = onnxq("compile", model, "-o", output, "--data", data, *arguments)
    assert result.exit_code == 0, result.stderr
    return output


def test_a_static_model_is_shown_to_be_invariant(
    onnxq: Onnxq, model: Path, data: Path, tmp_path: Path
) -> None:
    output = compiled(onnxq, model, data, tmp_path / "static.onnx", "cpu")
    shown = onnxq("validate", model, output, "--data", data, "--invariance")
    assert shown.exit_code == 0, shown.stderr
    assert "Alone, padded and in a batch" in shown.stdout
    assert "identical" in shown.stdout
    content = json.loads(onnxq("validate", model, output, "--data", data, "--invariance", "--json").stdout)
    assert content["invariance"]["holds"] is True
    assert content["invariance"]["samples"] == 8


def test_a_dynamic_model_misses(onnxq: Onnxq, model: Path, data: Path, tmp_path: Path) -> None:
    output = compiled(onnxq, model, data, tmp_path / "dynamic.onnx", "cpu-dynamic")
    shown = onnxq("validate", model, output, "--data", data, "--invariance")
    assert shown.exit_code == 1
    assert "moves" in shown.stdout
    assert "a sample's result moves by" in shown.stderr
    assert "compile with --data" in shown.stderr
    assert onnxq("validate", model, output, "--data", data).exit_code == 0
