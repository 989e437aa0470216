"""Training a model that was exported: what it brings, that it goes on after a kill, and what it needs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxq.calibration.data import Dataset, input_specs, open_feeds
from onnxq.comparison import CompileOptions
from onnxq.digits import DIGITS_MODEL, load_digits_split
from onnxq.finetuning import FinetuneOptions, finetune_model
from onnxq.ir.store import load_model, save_model
from onnxq.ir.text import parse
from onnxq.manifest import read_manifest
from onnxq.training.fitting import Plan

BATCH = 32


def _digits(images: Any, labels: Any = None) -> Dataset:
    def batches() -> Any:
        for start in range(0, len(images), BATCH):
            feeds = {"image": images[start : start + BATCH]}
            yield feeds if labels is None else (feeds, labels[start : start + BATCH])

    return open_feeds("digits", batches, input_specs(load_model(DIGITS_MODEL).model))


def test_three_bits_get_better_on_images_that_nobody_saw(tmp_path: Path) -> None:
    split, output = load_digits_split(), tmp_path / "tuned.onnx"
    test = _digits(split.test_images)
    tuned = finetune_model(
        DIGITS_MODEL,
        output,
        _digits(split.train_images),
        FinetuneOptions(bits=(3, 3), plan=Plan(steps=80, rate=2e-4, check_every=40), judging=test),
        around=CompileOptions(bench=False, threads=1, validation_data=test),
    )
    first, best = tuned.checks[0], tuned.best
    assert best.loss < 0.5 * first.loss
    found = tuned.compiled.accuracy
    assert found is not None
    agreement = found.outputs[0].agreement
    assert agreement is not None
    assert best.metric is not None
    # Sums in another order take few numbers over a border between two steps: few images may be near one.
    assert abs(agreement - best.metric) <= 0.01
    assert any(
        "were learned in" in warning
        for warning in read_manifest(output.with_suffix(".manifest.json")).warnings
    )


@pytest.fixture
def source(models: Path, tmp_path: Path) -> Path:
    path = tmp_path / "small.onnx"
    save_model(parse((models / "mlp_3d.onnxtxt").read_text()), path)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", x=rng.normal(size=(64, 5, 4)).astype(np.float32))
    return path


def _command(source: Path, output: str, *more: str) -> list[str]:
    plan = [*("--bits", "w3a3", "--steps", "1500", "--check-every", "50", "--threads", "1")]
    plan += ["--loss", "mse", "--lr", "0.001", "--batch-size", "8"]
    files = [str(source), "-o", str(source.with_name(output)), "--data", str(source.with_name("data.npz"))]
    return [sys.executable, "-c", "from onnxq.cli import main; main()", "tune", *files, *plan, *more]


def test_a_run_that_was_killed_goes_on_and_gives_the_same_bytes(source: Path) -> None:
    folder = source.with_name("checkpoint")
    saved = folder / "training.npz"
    command = _command(source, "a.onnx", "--checkpoint", str(folder))
    stopped = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not saved.is_file() and stopped.poll() is None:
        time.sleep(0.01)
    os.kill(stopped.pid, signal.SIGKILL)
    stopped.wait()
    assert not source.with_name("a.onnx").exists()
    with np.load(saved) as state:
        assert '"step": 1500' not in str(state["told"])
    subprocess.run(command, check=True, capture_output=True)
    subprocess.run(_command(source, "b.onnx"), check=True, capture_output=True)
    assert source.with_name("a.onnx").read_bytes() == source.with_name("b.onnx").read_bytes()


def test_what_was_learned_from_labels_may_lie_far_from_the_source(source: Path) -> None:
    """All samples are of the second class, whatever the source says."""
    np.save(source.with_name("labels.npy"), np.ones((64, 5), np.int64))
    learning = ("--labels", str(source.with_name("labels.npy")), "--loss", "cross-entropy", "--lr", "0.1")
    run = subprocess.run(
        _command(source, "a.onnx", *learning, "--steps", "100"), capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert "100.00% of classes right" in run.stderr
    assert "far from the source's" in run.stderr


def test_it_needs_no_pytorch(source: Path) -> None:
    without = "import sys; sys.modules['torch'] = None; from onnxq.cli import main; main()"
    command = _command(source, "a.onnx", "--steps", "3")
    command[2] = without
    subprocess.run(command, check=True, capture_output=True)
    assert source.with_name("a.onnx").is_file()
