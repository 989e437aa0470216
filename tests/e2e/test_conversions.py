"""A sample of what ``tools/check_conversions.py`` does with all: older operators, carried over exactly."""

import json
import os
import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).parents[2] / "tools"
EVERY = 40


def test_each_version_of_an_operator_is_carried_over_exactly() -> None:
    command = [sys.executable, str(TOOLS / "check_conversions.py"), "--every", str(EVERY), "--json"]
    environment = {**os.environ, "PYTHONSAFEPATH": ""}  # the tool imports its neighbours
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["converter"]: row for row in json.loads(done.stdout)["rows"]}
    assert rows["onnxq"]["same"] > 40
