"""The floors of the architecture: no import runs back up, and nobody imports a pass's module."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
FLOORS = [
    {
        "background",
        "errors",
        "files",
        "fragments",
        "heap",
        "limits",
        "overwriting",
        "processor",
        "progress",
        "reading",
        "shown",
        "staging",
    },
    {"quant"},
    {"ir"},
    {"analysis"},
    {"rewrite"},
    {"autodiff"},
    {"target", "kernels"},
    {"passmanager", "runtime", "digits", "training"},
    {"calibration", "testing", "recipe"},
    {"engine"},
    {"comparison", "warned"},
    {"search"},
    {"diff", "manifest", "outputs", "written"},
    {"compilation", "export", "inspection", "story", "verification"},
    {"report"},
    {"compile", "finetuning", "quanttuning"},
    {"cli"},
]
"""From the ground; a module may import from its own floor and from those below."""

PASSES_STAND_ON = {
    *("errors", "limits", "processor", "quant", "ir", "analysis", "rewrite", "target", "passmanager"),
    "training",
}


def _home(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("onnxq."):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("onnxq."))


def _files(folder: str) -> list[Path]:
    return sorted((REPOSITORY / folder).rglob("*.py"))


@pytest.mark.parametrize("path", _files("onnxq"), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_no_import_runs_back_up(path: Path) -> None:
    parts = path.relative_to(REPOSITORY / "onnxq").parts
    if parts[0] in ("__init__.py", "__main__.py", "assets", "recipes"):
        return  # the front door names everything; the other two hold no code
    level = {name: number for number, floor in enumerate(FLOORS) for name in floor}
    own = parts[0].removesuffix(".py")
    above = [module for module in _imports(path) if level[_home(module)] > level[own]]
    assert above == []


@pytest.mark.parametrize("path", _files("passes"), ids=lambda path: path.name)
def test_passes_stand_on_the_lower_floors(path: Path) -> None:
    assert {_home(module) for module in _imports(path)} <= PASSES_STAND_ON


@pytest.mark.parametrize("folder", ["onnxq", "tests", "tools"])
def test_nobody_imports_a_pass(folder: str) -> None:
    found = [str(path) for path in _files(folder) for module in _imports(path) if _home(module) == "passes"]
    assert found == []


def test_there_is_no_circle() -> None:
    """Of what modules import while they are imported; ``prepare`` raises CycleError, which names a circle."""
    paths = {_module(path): path for path in _files("onnxq")}
    graph = {name: set(_imports_at_once(path, paths)) for name, path in paths.items()}
    assert sum(map(len, graph.values())) > len(graph)
    TopologicalSorter(graph).prepare()


def _module(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports_at_once(path: Path, modules: dict[str, Path]) -> Iterator[str]:
    """Yield the modules that the file's top level imports, of a package those that are named."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            for alias in node.names:
                part = f"{node.module}.{alias.name}"
                yield part if part in modules else str(node.module)


MOST_PARAMETERS = 8
"""What travels together beyond that is a value, such as ``Run`` or ``CompileOptions``."""


@pytest.mark.parametrize("folder", ["onnxq", "passes"])
def test_no_function_takes_too_many_parameters(folder: str) -> None:
    found = {
        f"{path.relative_to(REPOSITORY)}:{one.lineno} {one.name}": _parameters(one)
        for path in _files(folder)
        for one in _functions(path)
    }
    assert {name: count for name, count in found.items() if count > MOST_PARAMETERS} == {}


def _functions(path: Path) -> Iterator[ast.FunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def _parameters(function: ast.FunctionDef) -> int:
    taken = function.args
    names = [one.arg for one in (*taken.posonlyargs, *taken.args, *taken.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])
