"""One process or two: the same compiled model, byte for byte, also from its manifest; the same sensitivity.

Every command is a process of its own with an empty cache. ``one`` and ``two`` are the first digits of the
SHA-256 of what ``onnxq compile --no-tune`` writes with one process and with two, ``manifest`` of what it
writes from the manifest of either with the other number. ``s`` are seconds of one run each, ``MB each`` is
the largest memory of one of the two processes, beside ``MB``, that of the command. Sensitivity is the same
if all numbers are. Exits with 1 if anything differs.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np
from measuring import parser, ran_with_others, real_tasks, show_tables

ONNXQ = Path(sys.executable).with_name("onnxq")
"""The command of this environment."""
SAMPLES = 128
"""As many as a recipe measures if it says nothing else."""
DIGITS = 8
COMPARED = ("--samples", "4")
"""Sensitivity is compared on few samples: each tensor is a run over all of them."""

Feeds = Mapping[str, Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A model, and batches of its data."""

    name: str
    model: Path
    feeds: list[Feeds]


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--made", type=Path, help="folder that evals/real_models.py wrote models to")
    options.add_argument("--only", action="append", help="a model's name; may be repeated")
    args = options.parse_args()
    tasks = real_tasks(args.assets)
    if tasks is None:
        raise SystemExit("evals/realtasks.py is missing: see --assets")
    cases = [
        case for case in _cases(tasks, args.minilm, args.made) if case.name in (args.only or [case.name])
    ]
    titles = ("onnxq compile --no-tune", " ".join(("onnxq sensitivity", *COMPARED)))
    pairs = [_rows(case) for case in cases]
    tables = dict(zip(titles, zip(*pairs, strict=True), strict=True))
    show_tables("One process or two", tables, ["Seconds of one run each."], as_json=args.json)
    return int(any(row["verdict"] != "same" for rows in pairs for row in rows))


def _cases(tasks: ModuleType, minilm: Path | None, made: Path | None) -> Iterator[Case]:
    for name in ("mnist_vit", "cifar10_resnet20", "imagenet"):
        task = tasks.load(name)
        yield Case(name.replace("imagenet", "squeezenet"), task.model, task.calibration)
    if minilm is not None:
        yield Case("MiniLM", minilm, tasks.load("stsb").calibration)
    if made is not None:
        task = tasks.load("efficientnet_lite0", models=made)
        yield Case("EfficientNet-lite0", task.model, task.calibration)


@dataclass(frozen=True)
class Compiled:
    """What one command wrote, and what it took: seconds, and memory of the command and of another process."""

    digest: str
    seconds: float
    peak: int
    other: int


def _rows(case: Case) -> tuple[Row, Row]:
    """Return what compiling and what sensitivity gave."""
    with TemporaryDirectory() as folder:
        data = _stored(case.feeds, Path(folder, "data"))
        rows = _compiling(case, data, Path(folder)), _sensitivity(case, data)
    print(*rows, sep="\n", file=sys.stderr)  # a run takes long, and may be stopped
    return rows


def _compiling(case: Case, data: Path, folder: Path) -> Row:
    one, two = (_compiled(case, data, folder / f"{count}.onnx", count) for count in (1, 2))
    again = {
        _compiled(
            case, data, folder / f"again{count}.onnx", 3 - count, folder / f"{count}.manifest.json"
        ).digest
        for count in (1, 2)
    }
    return {
        "model": case.name,
        "one": one.digest,
        "two": two.digest,
        "manifest": " ".join(sorted(again)),
        "s one": round(one.seconds, 1),
        "s two": round(two.seconds, 1),
        "MB": two.peak >> 20,
        "MB each": two.other >> 20,
        "verdict": "same" if again == {one.digest} == {two.digest} else "differs",
    }


def _sensitivity(case: Case, data: Path) -> Row:
    (one, alone), (two, together) = (_ranked(case, data, count) for count in (1, 2))
    return {
        "model": case.name,
        "tensors": len(one["tensors"]),
        "layers": len(one["layers"]),
        "s one": round(alone, 1),
        "s two": round(together, 1),
        "verdict": "same" if one == two else "differs",
    }


def _stored(batches: list[Feeds], folder: Path) -> Path:
    """Write samples as ``--data`` takes them."""
    folder.mkdir()
    left = SAMPLES
    for number, feeds in enumerate(batches):
        rows = {name: array[:left] for name, array in feeds.items()}
        left -= len(next(iter(rows.values())))
        np.savez(folder / f"{number:04}.npz", **rows)
        if left <= 0:
            break
    return folder


def _compiled(case: Case, data: Path, output: Path, processes: int, recipe: Path | None = None) -> Compiled:
    given = [case.model, "-o", output, "--data", data, "--processes", processes, "--no-tune", "--no-bench"]
    given += [] if recipe is None else ["--recipe", recipe]
    with TemporaryDirectory() as cache:
        command = [str(ONNXQ), "compile", *map(str, given)]
        seconds, peak, other = ran_with_others(command, {**os.environ, "ONNXQ_CACHE": cache})
    digest = hashlib.sha256(output.read_bytes()).hexdigest()[:DIGITS]
    return Compiled(digest, seconds, peak, other)


def _ranked(case: Case, data: Path, processes: int) -> tuple[Any, float]:
    """Return what ``onnxq sensitivity`` prints, and its seconds."""
    given = [case.model, "--data", data, "--processes", processes, "--json", *COMPARED]
    with TemporaryDirectory() as cache:
        begun = time.perf_counter()
        done = subprocess.run(
            [str(ONNXQ), "sensitivity", *map(str, given)],
            env={**os.environ, "ONNXQ_CACHE": cache},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=True,
        )
    return json.loads(done.stdout), time.perf_counter() - begun


if __name__ == "__main__":
    sys.exit(main())
