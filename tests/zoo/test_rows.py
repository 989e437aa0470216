"""What recipes make of the zoo: numbers that may only get better, as ``tools/zoo.py --json`` printed them."""

import json
from pathlib import Path

import pytest

from . import tedious
from .rows import Row

REACHED = [
    Row(**json.loads(line)) for line in (Path(__file__).parent / "reached.jsonl").read_text().splitlines()
]
NAMES = sorted({row.architecture for row in REACHED})
GROWN = frozenset({"sklearn_logistic", "sklearn_trees", "mobilenet_v3", "regnet"})
"""Of 1 to 60 kB, without matrices, or with convolutions of 16 channels, which take less room than nodes."""
ROUNDING = 0.002
"""Of a share or a cosine: what one row of a matrix is, and what another processor rounds otherwise."""


def test_the_zoo_is_large_and_nothing_in_it_is_refused() -> None:
    assert len(NAMES) >= 35
    assert [row for row in REACHED if row.refused is not None] == []


def test_nothing_grows_that_has_weights_to_speak_of() -> None:
    assert {row.architecture for row in REACHED if row.size is not None and row.size > 1} <= GROWN


def test_attention_is_fused_in_all_exports_that_have_it() -> None:
    """Networks that only scale rows by a softmax have none: scikit-learn's classifiers."""
    found = [row.attention for row in REACHED if row.recipe == "cpu" and row.attention and any(row.attention)]
    assert sum(fused > 0 and not left for fused, left in found) >= 36


def test_what_stays_in_float_has_a_reason() -> None:
    assert all(": " in reason for row in REACHED for reason in row.exceptions)


def again(name: str, folder: Path) -> None:
    from .rows import compiled, exports

    for exporter, path, samples in exports(name, folder):
        reached = [row for row in REACHED if (row.architecture, row.exporter) == (name, exporter)]
        for wanted in reached:
            found = compiled(name, exporter, wanted.recipe, path, samples)
            assert found.refused is None
            assert found.quantized is not None
            assert wanted.quantized is not None
            assert found.quantized >= wanted.quantized - ROUNDING
            assert (found.cosine or 1) >= (wanted.cosine or 1) - ROUNDING
            assert (found.size or 0) <= (wanted.size or 0) * (1 + 10 * ROUNDING)


@pytest.mark.export
def test_a_table_is_compiled_as_well_as_it_was(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the export extra")
    again("table", tmp_path)


@pytest.mark.export
@tedious
@pytest.mark.parametrize("name", NAMES)
def test_each_is_compiled_as_well_as_it_was(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the export extra")
    if name.startswith("sklearn"):
        pytest.importorskip("skl2onnx", reason="writes pipelines of scikit-learn")
    again(name, tmp_path)
