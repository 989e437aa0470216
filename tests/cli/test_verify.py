"""onnxq verify: a compiled model held against its manifest, as if on another machine."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from onnxq.processor import PROCESSORS

Onnxq = Callable[..., Any]


@pytest.fixture
def moved(compiled: Path, model: Path, tmp_path: Path) -> Path:
    """Return the manifest of a compiled model that was copied elsewhere, with its source."""
    for path in (compiled, compiled.with_suffix(".manifest.json"), model):
        shutil.copy(path, tmp_path)
    return tmp_path / "out.manifest.json"


def checks(onnxq: Onnxq, *arguments: object) -> tuple[int, dict[str, dict[str, Any]], str]:
    """Return exit code, checks by name, and the last line of what was said."""
    result = onnxq("verify", *arguments, "--threads", 1, "--json")
    found = json.loads(result.stdout)
    by_name = {one["name"]: one for one in found["checks"]}
    assert found["holds"] == all(one["holds"] is not False for one in by_name.values())
    return result.exit_code, by_name, result.stderr


def rewrite(manifest: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(manifest.read_text())
    change(content)
    manifest.write_text(json.dumps(content))


def test_what_was_compiled_here_is_as_its_manifest_says(onnxq: Onnxq, moved: Path, data: Path) -> None:
    _, found, _ = checks(onnxq, moved, "--data", data)
    assert [found[name]["holds"] for name in ("source", "compiled model", "worst output")] == [True] * 3
    assert found["speed over the source"]["told"] == "faster"  # it was not timed when it was compiled
    table = onnxq("verify", moved, "--data", data).stdout
    assert "worst output" in table
    assert max(map(len, table.splitlines())) <= 80


def test_without_data_nothing_is_said_of_its_outputs(onnxq: Onnxq, moved: Path) -> None:
    _, found, _ = checks(onnxq, moved)
    assert found["worst output"]["holds"] is None
    assert "random inputs" in onnxq("verify", moved).stderr


@pytest.mark.parametrize(("name", "file"), [("source", "small.onnx"), ("compiled model", "out.onnx")])
def test_another_file_is_told(onnxq: Onnxq, moved: Path, data: Path, name: str, file: str) -> None:
    path = moved.with_name(file)
    path.write_bytes(path.read_bytes() + b"\x32\x00")  # an empty field of the model's: another digest
    code, found, told = checks(onnxq, moved, "--data", data)
    assert (code, found[name]["holds"]) == (1, False)
    assert f"{name}: another content" in told


def test_what_saturates_here_is_told(
    onnxq: Onnxq, model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "wide.onnx"
    setting = "--no-bench", "--no-validate", "--set", "encode-weights.bits=8"
    assert onnxq("compile", model, "-o", out, "--data", data, *setting).exit_code == 0
    monkeypatch.setattr("onnxq.verification.at_hand", lambda: PROCESSORS["avx2"])
    arguments = tmp_path / "wide.manifest.json", "--source", model, "--data", data
    code, found, _ = checks(onnxq, *arguments)
    assert (code, found["sums of products"]["holds"]) == (1, False)
    assert "can on avx2" in found["sums of products"]["found"]


def test_more_noise_than_in_the_manifest_is_told(onnxq: Onnxq, moved: Path, data: Path) -> None:
    def better(content: dict[str, Any]) -> None:
        content["accuracy"]["outputs"][0]["sqnr_db"] += 10

    rewrite(moved, better)
    code, found, _ = checks(onnxq, moved, "--data", data)
    assert (code, found["worst output"]["holds"]) == (1, False)


def test_a_gate_of_the_recipe_holds_here_too(onnxq: Onnxq, moved: Path, data: Path) -> None:
    rewrite(moved, lambda content: content["recipe"]["gates"].update(min_sqnr_db=200))
    code, found, _ = checks(onnxq, moved, "--data", data)
    assert (code, found["worst output"]["holds"]) == (1, False)
    assert "200" in found["worst output"]["found"]


def test_fewer_layers_in_integers_are_told(onnxq: Onnxq, model: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    plain = "--no-validate", "--no-choose", "--no-tune"
    assert onnxq("compile", model, "-o", out, "--data", data, *plain).exit_code == 0

    def with_more(content: dict[str, Any]) -> None:
        layers = content["kernels"]["layers"]
        content["kernels"]["layers"] = [{**layers[0], "state": "integer"}] * (len(layers) + 1)

    manifest = tmp_path / "out.manifest.json"
    rewrite(manifest, with_more)
    code, found, _ = checks(onnxq, manifest, "--source", model, "--data", data)
    assert (code, found["layers in integers"]["holds"]) == (1, False)


@pytest.mark.parametrize(
    ("missing", "hint"), [("small.onnx", "--source MODEL"), ("out.onnx", "belongs beside the model")]
)
def test_a_file_that_is_not_there_is_asked_for(onnxq: Onnxq, moved: Path, missing: str, hint: str) -> None:
    moved.with_name(missing).unlink()
    result = onnxq("verify", moved)
    assert result.exit_code == 2
    assert hint in " ".join(result.stderr.split())
