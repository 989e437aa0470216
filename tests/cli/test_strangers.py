"""Files that are not those of their manifest are noticed; options of passes say what they do."""

import shutil
from pathlib import Path

import onnx
import pytest

from onnxq.passmanager.registry import installed_passes


@pytest.fixture
def moved(onnxq, model: Path, data: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Return a source and its compiled model, with the manifest beside it."""
    source, output = tmp_path / "source.onnx", tmp_path / "out.onnx"
    shutil.copy(model, source)
    quick = ("--recipe", "weight-only", "--no-bench", "--no-validate")
    assert onnxq("compile", source, "-o", output, *quick).exit_code == 0
    return source, output


def changed(path: Path) -> None:
    content = onnx.load(path)
    content.doc_string = "edited by hand"
    onnx.save(content, path)


def test_a_model_that_is_not_its_manifests_is_told_of(onnxq, moved: tuple[Path, Path], data: Path) -> None:
    source, output = moved
    manifest = output.with_suffix(".manifest.json")
    another_result = "out.onnx is not the result of its manifest: its content has changed since"
    assert "its manifest" not in onnxq("report", manifest).stderr
    assert "its manifest" not in onnxq("validate", source, output, "--data", data).stderr
    changed(output)
    assert another_result in onnxq("report", manifest).stderr
    changed(source)
    both = onnxq("validate", source, output, "--data", data).stderr
    assert "source.onnx is not the source of its manifest: its content has changed since" in both
    assert another_result in both


def test_every_option_of_a_pass_says_what_it_means() -> None:
    silent = [
        (one.name, option.name) for one in installed_passes() for option in one.options if not option.meaning
    ]
    assert silent == []


def test_a_pass_is_shown_with_meanings_and_defaults(onnxq) -> None:
    shown = " ".join(onnxq("passes", "encode-weights").stdout.split())
    assert "default values meaning" in shown
    assert "granularity channel channel | tensor One scale per output channel" in shown
