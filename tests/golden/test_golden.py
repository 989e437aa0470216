"""Every file in a folder here is a case of the pass that the folder is called after."""

from pathlib import Path

import pytest

from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.passmanager.registry import pass_names
from onnxq.testing.golden import check_golden, read_case

HERE = Path(__file__).parent
CASES = sorted(HERE.glob("*/*.onnxtxt"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_golden(path: Path) -> None:
    check_golden(path)


@pytest.mark.parametrize("folder", sorted({path.parent for path in CASES}), ids=lambda folder: folder.name)
def test_a_folder_is_called_after_the_pass_it_tests(folder: Path) -> None:
    name = folder.name.replace("_", "-")
    assert name in pass_names()
    for path in folder.glob("*.onnxtxt"):
        pipeline = read_case(path.read_text(encoding="utf-8")).pipeline
        assert name in {pass_.name for pass_ in parse_pipeline(pipeline)}, path.name
