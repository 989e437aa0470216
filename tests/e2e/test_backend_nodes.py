"""A sample of ONNX's single-operator models, as ``tools/check_backend_nodes.py`` checks all of them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="the tool runs the models")

TOOLS = Path(__file__).parents[2] / "tools"
EVERY = 20


@pytest.fixture(scope="module")
def report(kernels_of_the_processor: None) -> dict[str, Any]:
    """Check every 20th model; a failure fails here, with the tool's output."""
    command = [sys.executable, str(TOOLS / "check_backend_nodes.py"), "--every", str(EVERY), "--json"]
    environment = {**os.environ, "PYTHONSAFEPATH": ""}  # the tool imports its neighbours
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_model_is_compiled_left_alone_or_refused(report: dict[str, Any]) -> None:
    for row in report["rows"]:
        assert row["failed"] == 0, report["notes"]
        counted = sum(row[kind] for kind in ("quantized", "moved", "left alone", "refused"))
        assert counted == row["models"]


def test_the_sample_is_no_empty_one(report: dict[str, Any]) -> None:
    rows = {row["recipe"]: row for row in report["rows"]}
    assert rows["all-tensors"]["quantized"] > rows["all-tensors"]["models"] / 2
    # what is refused has NaN in its test data: about one model in fifty
    assert rows["all-tensors"]["refused"] <= rows["all-tensors"]["models"] / 10


@pytest.mark.parametrize(("off_by", "allowed"), [(0.9, True), (1.1, False)])
def test_the_comparison_knows_the_bound(
    off_by: float, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    bounds = __import__("backend_bounds")
    wanted = {"y": np.ones(3, np.float32)}
    found = {"y": wanted["y"] + np.float32(0.5 * off_by)}
    if allowed:
        bounds.compare(found, wanted, {"y": 0.5})
    else:
        with pytest.raises(bounds.OutOfBoundsError, match=r"output 'y' is off by 1\.1 times its bound"):
            bounds.compare(found, wanted, {"y": 0.5})
