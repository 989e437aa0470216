"""What a wheel holds: every package of the checkout."""

import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def test_a_wheel_has_every_package() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    folders = {file.parent.relative_to(REPOSITORY) for file in (REPOSITORY / "onnxq").rglob("__init__.py")}
    expected = {".".join(folder.parts) for folder in folders} | {"onnxq.passes"}
    assert set(project["tool"]["setuptools"]["packages"]) == expected
