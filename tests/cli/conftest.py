"""A small model with data, and a way to run the command line in this process."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from onnxq.cli.app import make_app
from onnxq.ir.store import save_model
from onnxq.ir.text import parse

SAMPLES, CLASSES = 24, 2
Onnxq = Callable[..., Result]


@pytest.fixture(scope="session")
def onnxq() -> Onnxq:
    """Return a function that runs ``onnxq`` with these arguments and gives exit code and both streams."""
    app = make_app()
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="session")
def model(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a model with one input ``x``, float32 (N, 5, 4)."""
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    save_model(parse((models / "mlp_3d.onnxtxt").read_text()), path)
    return path


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an .npz with samples for ``model`` and labels."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "data.npz"
    x = rng.normal(size=(SAMPLES, 5, 4)).astype(np.float32)
    np.savez(path, x=x, label=rng.integers(0, CLASSES, SAMPLES))
    return path


@pytest.fixture(scope="session")
def compiled(onnxq: Onnxq, model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model that ``onnxq compile`` wrote."""
    output = tmp_path_factory.mktemp("compiled") / "out.onnx"
    result = onnxq("compile", model, "-o", output, "--data", data, "--no-bench")
    assert result.exit_code == 0, result.stderr
    return output
