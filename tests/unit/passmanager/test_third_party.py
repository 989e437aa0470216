"""A second distribution, built and installed by pip, offers passes as onnxq does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "{name}"
version = "1.0"
[project.entry-points."onnxq.passes"]
{package} = "{package}.passes"
[tool.setuptools]
packages = ["{package}", "{package}.passes"]
"""

RUN = """
from onnxq.ir.text import parse, render
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.passmanager.registry import installed_passes
from onnxq.target import find_target

for info in installed_passes():
    if info.distribution != "onnxq":
        print(info.name, info.distribution, [(o.name, o.type, o.default_text) for o in info.options])
text = '''<ir_version: 10, opset_import: ["" : 21]>
main (float[N] x) => (float[N] y) { y = Relu(x) }'''
module = parse(text)
records = PassManager(parse_pipeline("replace-relu{with_op=Elu},remove-dead"), find_target("cpu")).run(module)
print(*[edit.why for edit in records[0].edits])
print(*[node.op_type for node in module.graph])
"""

BODY = """
        for node in module.graph:
            if node.op_type == "Relu":
                ctx.edit.retype(node, self.with_op, why="asked for")
"""


def install(folder: Path, into: Path, name: str, source: str) -> None:
    """Build a project with one pass and install it into a folder, without network."""
    package = name.replace("-", "_")
    passes = folder / name / package / "passes"
    passes.mkdir(parents=True)
    (folder / name / "pyproject.toml").write_text(PROJECT.format(name=name, package=package))
    (passes.parent / "__init__.py").touch()
    (passes / "__init__.py").touch()
    (passes / "replace_relu.py").write_text(source)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    done = subprocess.run(
        [*pip, "--target", str(into), str(folder / name)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def run(code: str, into: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(into), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, source: Callable[..., str]) -> Path:
    folder, into = tmp_path_factory.mktemp("projects"), tmp_path_factory.mktemp("site")
    text = source("replace-relu", 'with_op: str = "Gelu"').replace("\n        pass\n", BODY)
    install(folder, into, "relu-replacer", text)
    return into


def test_its_pass_is_listed_and_runs_by_name(installed: Path) -> None:
    done = run(RUN, installed)
    assert done.returncode == 0, done.stderr
    listed, why, operators = done.stdout.splitlines()
    assert listed == "replace-relu relu-replacer [('with_op', 'str', 'Gelu')]"
    assert (why, operators) == ("asked for", "Elu")


def test_a_clash_names_both_distributions(
    installed: Path, tmp_path: Path, source: Callable[..., str]
) -> None:
    install(tmp_path, installed, "second-replacer", source("replace-relu"))
    done = run("from onnxq.passmanager.pipeline import load_pass; load_pass('replace-relu')", installed)
    assert (
        "pass 'replace-relu' is offered twice, by relu-replacer (relu_replacer.passes.replace_relu) "
        "and second-replacer (second_replacer.passes.replace_relu)"
    ) in done.stderr
