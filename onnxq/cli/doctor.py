"""onnxq doctor: what is installed, what is missing, and what to install for it."""

from __future__ import annotations

import re
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from onnxq.cli.console import show, show_json
from onnxq.cli.options import Json
from onnxq.errors import TargetError

CORE = ("onnxq", "onnx", "onnx-ir", "onnxscript", "numpy", "ml-dtypes")
FOR_DEVELOPERS = frozenset({"test", "dev"})


def run(*, as_json: Json = False) -> None:
    """Show what is installed, what is missing, and what runs here.

    The exit code is 2 if there is no ONNX Runtime.
    """
    from onnxq.runtime.environment import cpu_flags, import_onnxruntime

    runtime = _runtime()
    report: dict[str, Any] = {
        "versions": {name: _version(name) for name in CORE},
        "runtime": runtime,
        "cpu_flags": list(cpu_flags()),
        "available": None if runtime is None else _available(),
        "extras": {name: [one for one in needs if _version(one) is None] for name, needs in extras().items()},
    }
    if as_json:
        show_json("doctor", report)
    else:
        _present(report)
    import_onnxruntime()


def extras() -> dict[str, list[str]]:
    """Return the distributions that each extra of onnxq asks for, as its metadata says."""
    found = defaultdict(list)
    for requirement in requires("onnxq") or ():
        match = re.match(r"([\w.-]+).*extra == [\"']([\w-]+)", requirement)
        if match and match[2] not in FOR_DEVELOPERS:
            found[match[2]].append(match[1])
    return dict(found)


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _runtime() -> dict[str, str] | None:
    from onnxq.runtime.environment import runtime_versions

    try:
        return runtime_versions()
    except TargetError:
        return None


def _available() -> dict[str, Any]:
    from onnxq.runtime.available import available

    return available().to_dict()


def _present(report: dict[str, Any]) -> None:
    from onnxq.report.tables import Table, available_tables
    from onnxq.report.text import draw

    versions = {**report["versions"], **(report["runtime"] or {"onnxruntime": None})}
    rows = [(name, found or "not installed") for name, found in versions.items() if name != "build"]
    rows.append(("CPU features", ", ".join(report["cpu_flags"]) or "unknown"))
    show(draw(Table("Installed", ("what", "version"), tuple(rows), text_columns=2)))
    if report["available"]:
        show(*map(draw, available_tables(report["available"])))
    missing = tuple(
        (name, "complete" if not lacking else f'pip install "onnxq[{name}]"', ", ".join(lacking))
        for name, lacking in report["extras"].items()
    )
    show(draw(Table("Extras", ("extra", "state", "missing"), missing, text_columns=3)))
