"""The row for PyTorch that the check of CUDA prints: built and timed on the CPU, where PyTorch is there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "torch_cases.py"


@pytest.mark.export
@pytest.mark.slow
def test_each_architecture_is_built_and_timed() -> None:
    pytest.importorskip("torch", reason="needs the export extra")
    pytest.importorskip("transformers", reason="needs the export extra")
    command = [sys.executable, str(TOOL), "--device", "cpu", "--rounds", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TOOL.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split()[0] for line in done.stdout.splitlines() if line.strip()]
    assert rows.count("eager") == 4
    assert "failed" not in done.stdout
