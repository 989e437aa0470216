"""What README and docs say in numbers is what was measured."""

import importlib.util
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).resolve().parents[3] / "tools"
PRINTED = """\
What it is about

small: batch 1
model            ms  speed  cosine mean
fp32            8.1      1            1
onnxq cpu      3.25   2.48       0.9992
other, wide   3.251   2.47       0.9946

large: batch 1
model        ms  speed
onnxq cpu  32.5    1.9

2026-11-27, x86_64, avx avx2
"""


@pytest.fixture(scope="module")
def claims() -> ModuleType:
    spec = importlib.util.spec_from_file_location("claims", TOOLS / "claims.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["claims"] = module
    spec.loader.exec_module(module)
    return module


def test_every_number_of_the_documentation_is_as_measured() -> None:
    environment = {**os.environ, "PYTHONSAFEPATH": ""}  # the tool imports its neighbours
    command = [sys.executable, TOOLS / "verify_claims.py"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("table", "row", "column", "found"),
    [
        ("", "onnxq cpu", "speed", "2.48"),
        ("", "onnxq cpu", "ms", "3.25"),
        ("", "fp32", "cosine mean", "1"),
        ("", "other, wide", "ms", "3.251"),
        ("large", "onnxq cpu", "speed", "1.9"),
        ("large", "onnxq cpu", "cosine mean", None),
        ("", "onnxq", "speed", None),
    ],
)
def test_a_cell_is_found_by_table_row_and_column(
    claims: ModuleType, table: str, row: str, column: str, found: str | None
) -> None:
    assert claims.find_cell(PRINTED, claims.Cell(table, row, column)) == found


def _finding(claims: ModuleType, said: str, measured: str, column: str, *, peer: bool = False) -> object:
    cell = claims.Cell("", "row", column)
    claim = claims.Claim("README.md", "| row |", "file", (cell,), peer)
    return claims.Finding(claim, cell, Decimal(said), Decimal(measured))


@pytest.mark.parametrize(
    ("said", "measured", "column", "peer", "flatters"),
    [
        ("2.67", "2.672", "speed", False, False),
        ("2.67", "2.6651", "speed", False, False),  # rounded
        ("2.67", "2.60", "speed", False, True),
        ("2.67", "2.80", "speed", False, False),  # better than it says
        ("2.67", "2.80", "speed", True, True),  # of a peer it says too little
        ("23.1", "23.9", "MB", False, True),
        ("23.1", "22.0", "MB", False, False),
    ],
)
def test_a_text_flatters_where_it_is_better_than_the_measurement(
    claims: ModuleType, said: str, measured: str, column: str, *, peer: bool, flatters: bool
) -> None:
    assert _finding(claims, said, measured, column, peer=peer).flatters() is flatters  # type: ignore[attr-defined]


def test_a_text_repeats_what_was_measured_to_its_own_digits(claims: ModuleType) -> None:
    assert _finding(claims, "98.76", "98.757", "agree %").repeats  # type: ignore[attr-defined]
    assert not _finding(claims, "98.48", "98.76", "agree %").repeats  # type: ignore[attr-defined]


def test_a_line_with_measured_numbers_needs_a_claim(claims: ModuleType) -> None:
    page = "It is 2.5x as fast.\nIt has 3 parts.\n| a | 0.974 |\nint8 weights\n"
    lines = list(claims.unclaimed("README.md", page, [], []))
    assert lines == ["It is 2.5x as fast.", "| a | 0.974 |"]
    assert list(claims.unclaimed("README.md", page, [], ["It is", "| a |"])) == []
