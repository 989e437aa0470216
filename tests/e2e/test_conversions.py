"""A sample of what ``tools/check_conversions.py`` does with all: older operators, carried over exactly."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

TOOLS = Path(__file__).parents[2] / "tools"
EVERY = 40


def test_each_version_of_an_operator_is_carried_over_exactly() -> None:
    command = [sys.executable, str(TOOLS / "check_conversions.py"), "--every", str(EVERY), "--json"]
    environment = {**os.environ, "PYTHONSAFEPATH": ""}  # the tool imports its neighbours
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["converter"]: row for row in json.loads(done.stdout)["rows"]}
    assert rows["onnxq"]["same"] > 40


def test_masks_leave_the_bound_for_the_other_numbers_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime masks with the lowest number, or infinity; beside it, 64 steps of the largest count."""
    monkeypatch.syspath_prepend(str(TOOLS))
    tool = importlib.import_module("check_conversions")
    for last in (np.finfo(np.float16).min, -np.inf):
        expected = np.array([last, 1000], np.float16)  # 64 steps of 0.5
        assert tool._is_same(np.array([-np.inf, 1030], np.float16), expected)
        assert not tool._is_same(np.array([-np.inf, 1034], np.float16), expected)
        assert not tool._is_same(np.array([np.inf, 1000], np.float16), expected)
    assert not tool._is_same(np.array([-60000, np.nan], np.float16), np.array([-65504, np.nan], np.float16))
