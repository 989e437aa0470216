"""Models of onnxruntime's own quantization tests, at their tolerances: a few of those the tool has."""

import json
import os
import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[2] / "tools"
FEW = {
    "op_gemm": 3,
    "op_pooling": 2,
    "qoperator_adjust_int32_bias gemm": 2,
    "op_matmul_4bits symmetric": 1,
}
"""Cases by how their name begins, with how many compilations they make."""


def test_results_keep_to_the_tolerance_or_are_no_worse() -> None:
    only = [argument for name in FEW for argument in ("--only", name)]
    done = subprocess.run(
        [sys.executable, "check_peer_models.py", "--json", *only],
        capture_output=True,
        text=True,
        cwd=TOOLS,
        env={**os.environ, "PYTHONSAFEPATH": ""},  # tools import each other
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(done.stdout)["tables"][0]["rows"]
    assert len(rows) == sum(FEW.values())
    assert {row["verdict"] for row in rows} <= {"ok", "no worse"}
