"""What the measuring commands share: their options, the assets folder, and how a table is printed."""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from onnxq.manifest import installed_versions
from onnxq.processor import cpu_flags
from onnxq.runtime.environment import runtime_versions
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session

REPOSITORY = Path(__file__).resolve().parent.parent
WIDTH = 110
LOOK_SECONDS = 0.02
"""How often a command's memory is looked at."""

Rows = Sequence[Mapping[str, Any]]
Tables = Mapping[str, Rows]


def parser(description: str | None, *, several: bool = False) -> argparse.ArgumentParser:
    """Return a parser with the options that every measuring command has; ``several`` repeats --minilm."""
    options = argparse.ArgumentParser(description=(description or "").partition("\n\n")[0])
    options.add_argument("--json", action="store_true", help="print one JSON object")
    options.add_argument(
        "--assets",
        type=Path,
        default=REPOSITORY.parent / "shared",
        help="folder with models/, data/ and evals/",
    )
    options.add_argument(
        "--minilm",
        type=Path,
        action="append" if several else "store",
        help="all-MiniLM-L6-v2 as ONNX: the file that onnxq export wrote"
        + ("; one for each exporter" if several else ""),
    )
    return options


def environment() -> dict[str, Any]:
    """Return date, versions and processor: what a measurement depends on."""
    return {
        "date": date.today().isoformat(),
        "machine": platform.machine(),
        "cpu_flags": list(cpu_flags()),
        "versions": {**installed_versions(), **runtime_versions()},
    }


def environment_lines() -> list[str]:
    """Return the same in lines of text."""
    where = environment()
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    return [f"{where['date']}, {where['machine']}, {' '.join(where['cpu_flags'])}", versions]


def real_tasks(assets: Path) -> ModuleType | None:
    """Return the module of evaluation tasks that lies among the assets, or None where it does not."""
    path = assets / "evals" / "realtasks.py"
    if not path.is_file():
        return None
    spec = importlib.util.spec_from_file_location("realtasks", path)
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    sys.modules["realtasks"] = module
    spec.loader.exec_module(module)
    return module


def embeddings(model: Path, feeds: Sequence[Mapping[str, NDArray[Any]]]) -> NDArray[np.float64]:
    """Return the mean-pooled embedding of each of the feeds, one sample each, with length 1."""
    session, rows = open_session(model, Run(threads=2)), []
    for feed in feeds:
        mask = feed["attention_mask"][..., None].astype(np.float64)
        tokens = session.run(feed)[session.output_names[0]]
        rows.append(((tokens * mask).sum(1) / mask.sum(1))[0])
    array = np.stack(rows)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def cosines(wanted: NDArray[np.float64], found: NDArray[np.float64]) -> dict[str, float]:
    """Return the mean and the smallest cosine of two sets of embeddings of length 1."""
    each = (wanted * found).sum(axis=1)
    return {"cosine mean": round(float(each.mean()), 4), "min": round(float(each.min()), 4)}


def ran(command: Sequence[str], env: Mapping[str, str] | None = None) -> tuple[float, int]:
    """Run a command; return its seconds, and its largest resident memory in bytes, as Linux tells it.

    What ``wait4`` says of memory counts the caller's own from before the command began.
    """
    seconds, peak, _ = ran_with_others(command, env)
    return seconds, peak


def ran_with_others(command: Sequence[str], env: Mapping[str, str] | None = None) -> tuple[float, int, int]:
    """Return the same, and the largest resident memory of a process that the command began, or 0."""
    begun, peak, other = time.perf_counter(), 0, 0
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, _peak_of(process.pid))
            other = max(other, *map(_peak_of, _begun_by(process.pid)), 0)
            time.sleep(LOOK_SECONDS)
    if process.returncode:
        raise SystemExit(f"exit code {process.returncode} of {' '.join(command)}")
    return time.perf_counter() - begun, peak, other


def _begun_by(pid: int) -> list[int]:
    """Return the processes that the threads of one have begun."""
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, children.read_text().split())
        except OSError:  # the thread has ended
            continue
    return found


def _peak_of(pid: int) -> int:
    """Return the largest resident memory of a process so far; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def show(title: str, rows: Rows, notes: Iterable[str], *, as_json: bool) -> None:
    """Print the rows as a table, or everything as JSON."""
    if as_json:
        _dump({"title": title, "environment": environment(), "rows": list(rows), "notes": list(notes)})
        return
    _show({"": rows}, title, notes)


def show_tables(title: str, tables: Tables, notes: Iterable[str], *, as_json: bool) -> None:
    """Print several tables, each under its own title, or everything as JSON."""
    if as_json:
        parts = [{"title": name, "rows": list(rows)} for name, rows in tables.items()]
        _dump({"title": title, "environment": environment(), "tables": parts, "notes": list(notes)})
        return
    _show(tables, title, notes)


def _dump(everything: Mapping[str, Any]) -> None:
    print(json.dumps(everything, indent=1))


def _show(tables: Tables, title: str, notes: Iterable[str]) -> None:
    console = Console(width=WIDTH, highlight=False)
    console.print(f"{title}\n")
    for name, rows in tables.items():
        if name:
            console.print(f"\n[bold]{name}[/]")
        console.print(_table(rows))
    for note in notes:
        console.print(f"\n{note}")
    console.print("", *environment_lines(), sep="\n")


def _table(rows: Rows) -> Table:
    table = Table(box=None, pad_edge=False)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for column in columns:
        numeric = any(isinstance(row.get(column), int | float) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
