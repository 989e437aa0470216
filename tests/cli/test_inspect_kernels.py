"""onnxq inspect --kernels, and what a compilation and doctor say of kernels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx.parser
import pytest
from typer.testing import Result

Onnxq = Callable[..., Result]


@pytest.fixture(scope="module")
def result(onnxq: Onnxq, model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("result") / "out.onnx"
    run = onnxq("compile", model, "-o", path, "--data", data, "--no-tune")
    assert run.exit_code == 0, run.stderr
    assert "Layers of the source: " in run.stdout
    return path


@pytest.fixture
def unfused(tmp_path: Path) -> Path:
    text = """<ir_version: 10, opset_import: ["" : 21]>
        main (float[1,1,4,4] x) => (float[1,1,3,3] y)
        <float s = {0.05}, uint8 z = {128}, int8 wz = {0}, int8[1,1,2,2] w = {1, 2, 3, 4}> {
            xq = QuantizeLinear(x, s, z)
            xd = DequantizeLinear(xq, s, z)
            wd = DequantizeLinear(w, s, wz)
            [conv] y = Conv(xd, wd)
        }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "unfused.onnx")
    return tmp_path / "unfused.onnx"


def test_layers_are_told_by_the_source(onnxq: Onnxq, model: Path, result: Path) -> None:
    shown = onnxq("inspect", result, "--kernels", "--source", model)
    assert shown.exit_code == 0, shown.stderr
    assert "Layers of the source: 2 " in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80
    content = json.loads(onnxq("inspect", result, "--kernels", "--source", model, "--json").stdout)
    layers = content["kernels"]["layers"]
    assert [(layer["name"], layer["op_type"]) for layer in layers] == [("up", "MatMul"), ("down", "MatMul")]


def test_what_did_not_fuse_is_warned_of(onnxq: Onnxq, unfused: Path) -> None:
    shown = onnxq("inspect", unfused, "--kernels")
    assert "warning: Conv 'conv': in float on values dequantized in each run" in shown.stderr
    assert "its output is not quantized" in shown.stderr
    content = json.loads(onnxq("inspect", unfused, "--kernels", "--json").stdout)
    assert content["kernels"]["states"]["unfused"] == 1


def test_a_source_without_kernels_is_refused(onnxq: Onnxq, model: Path, result: Path) -> None:
    shown = onnxq("inspect", result, "--source", model)
    assert shown.exit_code == 2
    assert "--source is given without --kernels" in shown.stderr


def test_the_report_and_the_manifest_hold_the_layers(result: Path) -> None:
    report = result.with_suffix(".report.md").read_text()
    assert "## Layers" in report
    assert "Layers of the source: 2 " in report
    kernels = json.loads(result.with_suffix(".manifest.json").read_text())["kernels"]
    assert [layer["name"] for layer in kernels["layers"]] == ["up", "down"]


def test_a_compilation_warns_of_what_did_not_fuse(onnxq: Onnxq, models: Path, tmp_path: Path) -> None:
    onnx.save(onnx.parser.parse_model((models / "conv1d.onnxtxt").read_text()), tmp_path / "conv.onnx")
    arguments = ["compile", tmp_path / "conv.onnx", "-o", tmp_path / "out.onnx", "--recipe", "weight-only"]
    shown = onnxq(*arguments)
    assert shown.exit_code == 0, shown.stderr
    assert "only its weight is quantized, and Conv has no kernel for that" in shown.stderr
    assert "only its weight is quantized" in (tmp_path / "out.report.md").read_text()


def test_doctor_tells_what_can_be_run(onnxq: Onnxq) -> None:
    shown = onnxq("doctor")
    for text in (
        "highest opset",
        "products of 8-bit integers",
        "MatMulIntegerToFloat",
        "blocks of 2, 4, 8 bits",
    ):
        assert text in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80
    content = json.loads(onnxq("doctor", "--json").stdout)["available"]
    assert {"QGemm", "Attention"} <= {kernel["op_type"] for kernel in content["kernels"]}
