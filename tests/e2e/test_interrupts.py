"""Ctrl-C: nothing half, and what was measured is there for the next run."""

import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onnxq.calibration.data import Dataset, input_specs, open_feeds
from onnxq.comparison import CompileOptions
from onnxq.compile import compile_model
from onnxq.engine.worker import Worker
from onnxq.ir.store import load_model, save_model
from onnxq.ir.text import parse
from onnxq.recipe import load_recipe

OPTIONS = CompileOptions(threads=1)


@pytest.fixture
def source(models: Path, tmp_path: Path) -> Path:
    path = tmp_path / "source" / "small.onnx"
    path.parent.mkdir()
    save_model(parse((models / "mlp_3d.onnxtxt").read_text()), path)
    return path


@pytest.fixture
def data(source: Path) -> Dataset:
    x = np.random.default_rng(0).normal(size=(16, 5, 4)).astype(np.float32)
    return open_feeds("x", lambda: [{"x": x}], input_specs(load_model(source).model))


def interrupted_in(phase: str, source: Path, data: Dataset, options: CompileOptions = OPTIONS) -> str:
    """Interrupt a compilation where a phase goes on, and return what the interrupt says."""

    def on_progress(now: str, done: int, total: int | None) -> None:
        if now == phase and (done or total is None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        compile_model(
            *(source, source.parent / "out.onnx"),
            recipe=load_recipe("cpu"),
            data=data,
            options=options,
            on_progress=on_progress,
        )
    assert [path.name for path in source.parent.iterdir()] == ["small.onnx"]
    return str(stopped.value)


def test_what_was_measured_is_kept_whenever_a_run_is_interrupted(source: Path, data: Dataset) -> None:
    assert interrupted_in("reading data", source, data) == ""  # nothing was
    assert interrupted_in("calibrating", source, data) == ""
    assert "measured are kept for the next run" in interrupted_in("choosing", source, data)
    assert interrupted_in("building forms", source, data) == ""  # nothing more was
    assert interrupted_in("writing", source, data) == ""
    result = compile_model(
        *(source, source.parent / "out.onnx"),
        recipe=load_recipe("cpu"),
        data=data,
        options=replace(OPTIONS, tune=False),  # tuning may keep the source, which needs no data
    )
    used = result.manifest.data
    assert used is not None
    assert (used.measured, used.recalled > 0) == (0, True)


def test_an_interrupt_ends_the_processes_and_says_the_same(
    source: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Worker] = []
    enter = Worker.__enter__
    monkeypatch.setattr(Worker, "__enter__", lambda worker: begun.append(worker) or enter(worker))
    told = interrupted_in("choosing", source, data, replace(OPTIONS, processes=2))
    assert "measured are kept for the next run" in told
    assert [worker.status for worker in begun] == [-signal.SIGKILL] * 2
