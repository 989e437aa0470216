"""How the code is built, in numbers: floors and circles, lengths of functions, parameters, lines of passes.

Read from the source with Python's own parser. A function's length is that of its whole definition, docstring
included. Exits with 1 if something that is wanted is missed.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np
from measuring import REPOSITORY, parser, show_tables

MEDIAN, P90, PARAMETERS = 7, 18, 8
"""What is wanted of the functions of the product: lines in the median and for nine of ten, and parameters."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Room:
    """The modules of one package or of the top, or the passes."""

    name: str
    files: Sequence[Path]

    def functions(self) -> Iterator[Function]:
        """Yield all functions and methods, inner ones too."""
        for path in self.files:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, Function):
                    yield node

    def lines(self) -> int:
        """Return the lines of all files."""
        return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in self.files)


def main() -> int:
    args = parser(__doc__).parse_args()
    rooms = list(_rooms())
    found = [function for room in rooms for function in room.functions()]
    wanted = _wanted(found)
    tables = {"Rooms": [_row(room) for room in rooms], "Wanted": wanted}
    show_tables("Structure", tables, _notes(found), as_json=args.json)
    return int(any(row["verdict"] == "missed" for row in wanted))


def _rooms() -> Iterator[Room]:
    product = REPOSITORY / "onnxq"
    folders = sorted(path for path in product.iterdir() if list(path.glob("*.py")))
    yield Room("onnxq, top", sorted(product.glob("*.py")))
    yield from (Room(folder.name, sorted(folder.rglob("*.py"))) for folder in folders)
    yield Room("passes", sorted((REPOSITORY / "passes").glob("*.py")))


def _row(room: Room) -> dict[str, Any]:
    functions = list(room.functions())
    lengths = [_length(function) for function in functions] or [0]
    return {
        "room": room.name,
        "files": len(room.files),
        "lines": room.lines(),
        "functions": len(functions),
        "median": float(np.median(lengths)),
        "p90": float(np.percentile(lengths, 90)),
        "longest": max(lengths),
        "most parameters": max(map(_parameters, functions), default=0),
    }


def _length(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def _parameters(function: Function) -> int:
    taken = function.args
    names = [one.arg for one in (*taken.posonlyargs, *taken.args, *taken.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def _wanted(functions: Sequence[Function]) -> list[dict[str, Any]]:
    lengths = [_length(function) for function in functions]
    most = max(functions, key=_parameters)
    return [
        _verdict("circles of imports", 0, _circles()),
        _verdict("lines of a function, median", MEDIAN, float(np.median(lengths))),
        _verdict("lines of a function, nine of ten", P90, float(np.percentile(lengths, 90))),
        _verdict(f"parameters, most: {most.name}", PARAMETERS, _parameters(most)),
    ]


def _verdict(what: str, most: float, found: float) -> dict[str, Any]:
    return {"what": what, "at most": most, "found": found, "verdict": "ok" if found <= most else "missed"}


def _circles() -> int:
    """Return 1 if modules import each other in a circle when they are loaded, else 0."""
    paths = {_module(path): path for path in (REPOSITORY / "onnxq").rglob("*.py")}
    try:
        TopologicalSorter({name: set(_imports(path, paths)) for name, path in paths.items()}).prepare()
    except CycleError:
        return 1
    return 0


def _module(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path: Path, known: Collection[str]) -> Iterator[str]:
    """Yield the modules that are imported as the file is loaded; of a package, those that are named."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module in known:
            parts = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (part if part in known else str(node.module) for part in parts)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)


def _notes(functions: Sequence[Function]) -> list[str]:
    longest = sorted(functions, key=_length)[-3:]
    told = ", ".join(f"{function.name} ({_length(function)})" for function in reversed(longest))
    return [f"The longest functions: {told}.", f"CONTRIBUTING's first pass: {_first_pass()} lines."]


def _first_pass() -> int:
    """Return the lines of the first block of code that CONTRIBUTING shows a pass in."""
    lines = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()
    blocks, inside = [], False
    for line in lines:
        if line.startswith("```"):
            inside = line.startswith("```python")
            blocks += [[]] if inside else []
        elif inside:
            blocks[-1].append(line)
    return next((len(block) for block in blocks if any("(Pass)" in line for line in block)), 0)


if __name__ == "__main__":
    sys.exit(main())
