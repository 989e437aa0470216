"""onnxq tune: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxq.ir.store import save_model
from onnxq.ir.text import parse
from tests.cli.conftest import CLASSES, SAMPLES, Onnxq

PLAN = ("--steps", 4, "--check-every", 2, "--threads", 1, "--bits", "w4a8", "--batch-size", 4)


def test_it_writes_model_manifest_and_report(onnxq: Onnxq, model: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    result = onnxq("tune", model, "-o", output, "--data", data, *PLAN)
    assert result.exit_code == 0, result.stderr
    assert "note: step 0: loss " in result.stderr
    assert "note: step 4: loss " in result.stderr
    assert "Oscillating weights" in result.stdout  # its weights have 4 bits
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == ["out.manifest.json", "out.onnx", "out.report.md"]
    pipeline = json.loads((tmp_path / "out.manifest.json").read_text())["recipe"]["pipeline"]
    assert "encode-weights{bits=4, patches=false, method=mse}" in pipeline
    assert onnxq("validate", model, output, "--data", data).exit_code == 0
    assert onnxq("diff", model, output).exit_code == 1  # they differ
    assert onnxq("report", tmp_path / "out.manifest.json").exit_code == 0


def test_labels_are_learned_from(onnxq: Onnxq, model: Path, data: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.npy"
    np.save(labels, np.zeros((SAMPLES, 5), np.int64))
    result = onnxq("tune", model, "-o", tmp_path / "out.onnx", "--data", data, "--labels", labels, *PLAN)
    assert result.exit_code == 0, result.stderr
    assert "of classes right" in result.stderr
    np.save(labels, np.zeros(3, np.int64))
    result = onnxq("tune", model, "-o", tmp_path / "new.onnx", "--data", data, "--labels", labels, *PLAN)
    assert "labels for 4 samples" in result.stderr
    assert not (tmp_path / "new.onnx").exists()


def test_a_model_may_take_batches_of_one_size_alone(
    onnxq: Onnxq, models: Path, data: Path, tmp_path: Path
) -> None:
    fixed = tmp_path / "fixed.onnx"
    save_model(parse((models / "mlp_3d.onnxtxt").read_text().replace("float[N,", "float[3,")), fixed)
    plan = ("--steps", 4, "--check-every", 2, "--threads", 1, "--bits", "w4a8")
    result = onnxq("tune", fixed, "-o", tmp_path / "out.onnx", "--data", data, *plan)
    assert result.exit_code == 0, result.stderr


def test_outliers_are_tamed_in_float(onnxq: Onnxq, model: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "tamed.onnx"
    plan = ("--method", "quanttune", "--loss", "mse", *PLAN)
    result = onnxq("tune", model, "-o", output, "--data", data, *plan)
    assert result.exit_code == 0, result.stderr
    assert "mean of all" in result.stdout
    assert onnxq("compile", output, "-o", tmp_path / "int8.onnx", "--data", data, "--no-bench").exit_code == 0
    output.write_bytes(b"mine")
    result = onnxq("tune", model, "-o", output, "--data", data, *plan)
    assert result.exit_code == 2
    assert output.read_bytes() == b"mine"
    content = json.loads(
        onnxq("tune", model, "-o", output, "--data", data, *plan, "--force", "--json").stdout
    )
    assert sorted(content["before"]) == sorted(content["after"])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--bits", "w9a8"), "'w9a8' names no bits"),
        (("--method", "lsk"), "unknown choice 'lsk'"),
        (("--loss", "cross-entropy"), "it has no labels"),
        (("--recipe", "weight-only", "--pipeline", "tidy"), "both --recipe and --pipeline are given"),
        (("--pipeline", "encode-weights, encode-activations"), "no pass makes integers of what is decided"),
        (("--labels", "missing.npy"), "it cannot be read"),
        (("--metric", "top1", "--steps", "1000000"), "the data has no labels"),
    ],
)
def test_what_is_wrong_is_told(
    onnxq: Onnxq, model: Path, data: Path, tmp_path: Path, given: tuple[str, ...], told: str
) -> None:
    result = onnxq("tune", model, "-o", tmp_path / "out.onnx", "--data", data, *given)
    assert result.exit_code == 2
    assert told in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_scales_stay_where_weights_alone_are_learned(
    onnxq: Onnxq, model: Path, data: Path, tmp_path: Path
) -> None:
    scales = []
    for method, steps in (("qat", 20), ("lsq", 20)):
        output = tmp_path / f"{method}.onnx"
        plan = ("--steps", steps, "--check-every", 20, "--bits", "w3a3", "--loss", "mse", "--lr", 1e-6)
        result = onnxq("tune", model, "-o", output, "--data", data, "--method", method, *plan, "--threads", 1)
        assert result.exit_code == 0, result.stderr
        scales.append(result.stderr)
    assert scales[0] != scales[1]


def test_the_result_is_judged_by_samples_that_were_not_learned_from(
    onnxq: Onnxq, model: Path, data: Path, tmp_path: Path
) -> None:
    labels = tmp_path / "labels.npy"
    np.save(labels, np.arange(SAMPLES) % CLASSES)
    given = ("--labels", labels, "--loss", "mse", "--metric", "tests.cli.test_tune:how_many")
    result = onnxq("tune", model, "-o", tmp_path / "out.onnx", "--data", data, *given, *PLAN)
    assert result.exit_code == 0, result.stderr
    manifest = json.loads((tmp_path / "out.manifest.json").read_text())
    assert manifest["accuracy"]["samples"] == 4  # one batch of the six
    assert manifest["accuracy"]["metric"]["candidate"] == np.mean(np.arange(20, 24) % CLASSES)


def how_many(outputs: Any, batch: Any) -> Any:
    """Return the labels themselves."""
    return batch.labels
