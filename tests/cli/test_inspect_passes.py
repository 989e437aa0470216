"""onnxq inspect --passes: what exact passes would do, and how many bits a weight takes."""

import json
from pathlib import Path

import pytest

from onnxq.ir.store import save_model
from onnxq.ir.text import parse


@pytest.fixture
def convolution(models: Path, tmp_path: Path) -> Path:
    path = tmp_path / "conv_batchnorm.onnx"
    save_model(parse((models / "conv_batchnorm.onnxtxt").read_text()), path)
    return path


def test_fold_sites_are_told_and_nothing_is_written(onnxq, convolution: Path) -> None:
    before = convolution.read_bytes()
    content = json.loads(onnxq("inspect", convolution, "--passes", "--json").stdout)
    folds = [one for one in content["passes"] if one["text"] == "fold-batch-norm"]
    assert folds
    assert folds[0]["edits"]
    shown = onnxq("inspect", convolution, "--passes").stdout
    assert "What exact passes would do" in shown
    assert "fold-batch-norm" in shown
    assert convolution.read_bytes() == before
    assert "passes" not in json.loads(onnxq("inspect", convolution, "--json").stdout)


def test_bits_of_a_weight_are_those_of_its_type_and_scales(
    onnxq, model: Path, data: Path, tmp_path: Path
) -> None:
    plain = json.loads(onnxq("inspect", model, "--json").stdout)
    assert plain["bits_per_weight"] == 32
    output = tmp_path / "out.onnx"
    onnxq("compile", model, "-o", output, "--data", data, "--no-bench", "--no-validate", "--no-tune")
    compiled = json.loads(onnxq("inspect", output, "--json").stdout)
    # 8 bits each, and for each channel of at least 3 elements at most 32 bits of scale and 8 of zero point.
    assert 8 < compiled["bits_per_weight"] <= 8 + 40 / 3
    assert "bits for each weight of a layer" in onnxq("inspect", output).stdout
