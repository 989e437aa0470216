"""How long it takes from a model and data to a result, beside onnxruntime's quantize_static.

Each case is a model and a folder of samples, as ``onnxq compile`` takes them. Every command is a process of
its own and begins with an empty cache; all get the same samples. ``pass`` is one run of the fp32 model over
the calibration samples, in one process with the peers. ``again`` is what a second compilation with another
recipe measured, and what it recalled. Exits with 1 if something that is wanted is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from measuring import parser, ran, show_tables
from peers import quantize_static
from rich.console import Console

from onnxq.calibration.data import DataOptions, input_specs, open_data
from onnxq.ir.store import load_model
from onnxq.runtime.session import open_session

ONNXQ = Path(sys.executable).with_name("onnxq")
"""The command of this environment."""
SAMPLES = 128
"""As many as a recipe measures if it says nothing else."""
QUICK = ("--no-choose", "--no-tune")
QUICK_FACTOR, QUICK_SECONDS = 2.0, 3.0
"""Without choosing and tuning: so many times quantize_static's seconds, and so many seconds more."""
OTHER = ("--recipe", "all-tensors", "--no-tune", "--no-bench", "--no-validate")
"""The second compilation of the same source and data, of which only what it measures is told."""

Feeds = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Args:
        name: What it is called.
        model: Its file.
        data: What ``--data`` takes.
        limit: The seconds that a default compilation may take; None for no limit.

    """

    name: str
    model: Path
    data: Path
    limit: float | None


def main() -> int:
    args = _arguments()
    rows = [_row(case, args.repeats) for case in args.case]
    show_tables(
        "From a model and data to a result", {"Seconds": rows}, [_note(args.repeats)], as_json=args.json
    )
    return int(any(row["verdict"] == "missed" for row in rows))


def _arguments() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument(
        "--case",
        action="append",
        type=_case,
        required=True,
        metavar="NAME:SECONDS:MODEL:DATA",
        help="a model, its samples, and what a default compilation may take; may be repeated",
    )
    options.add_argument("--repeats", type=int, default=3, help="each number is the median of so many runs")
    return options.parse_args()


def _case(text: str) -> Case:
    name, limit, model, data = text.split(":")
    return Case(name, Path(model), Path(data), float(limit) if limit else None)


def _note(repeats: int) -> str:
    return f"Medians of {repeats}; each command a process of its own with an empty cache."


def _row(case: Case, repeats: int) -> dict[str, Any]:
    feeds = _feeds(case)
    with TemporaryDirectory() as place:
        folder = Path(place)
        fp32 = _median(repeats, lambda: _run_all(case.model, feeds))
        static = _median(repeats, lambda: quantize_static(case.model, folder / "static.onnx", feeds))
        entropy = _entropy(case.model, folder / "entropy.onnx", feeds)
        default = [_compile(case, folder, ()) for _ in range(repeats)]
        quick = [_compile(case, folder, QUICK) for _ in range(repeats)]
        again = _compile(case, folder, (), OTHER)
    seconds, quick_seconds = (median(one.seconds for one in runs) for runs in (default, quick))
    allowed = QUICK_FACTOR * static + QUICK_SECONDS
    reached = (case.limit is None or seconds <= case.limit) and quick_seconds <= allowed
    row = {
        "model": case.name,
        "pass": round(fp32, 2),
        "static": round(static, 1),
        "entropy": entropy,
        "default": round(seconds, 1),
        "wanted": case.limit,
        "passes": round(seconds / fp32, 1),
        "quick": round(quick_seconds, 1),
        "wanted quick": round(allowed, 1),
        "MB": max(one.peak for one in default) >> 20,
        "again": f"{again.measured} + {again.recalled}",
        "verdict": "ok" if reached else "missed",
    }
    Console(stderr=True, highlight=False, soft_wrap=True).print(row)  # a run takes long, and may be stopped
    return row


def _feeds(case: Case) -> list[Feeds]:
    specs = input_specs(load_model(case.model).model)
    data = open_data(str(case.data), specs, DataOptions(limit=SAMPLES, model_dir=case.model.parent))
    return [batch.feeds for batch in data.batches()]


def _entropy(model: Path, output: Path, feeds: Sequence[Feeds]) -> float | str:
    """Return the seconds of quantize_static by entropy, once; or that it fails, as it does on masks."""
    try:
        return round(_timed(lambda: quantize_static(model, output, feeds, method="Entropy")), 1)
    except Exception:  # whatever a peer raises is its result
        return "fails"


def _run_all(model: Path, feeds: Sequence[Feeds]) -> None:
    session = open_session(model)
    for feed in feeds:
        session.run(feed)


def _timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _median(repeats: int, work: Callable[[], object]) -> float:
    return float(np.median([_timed(work) for _ in range(repeats)]))


@dataclass(frozen=True)
class Run:
    """One compilation: seconds, peak memory in bytes, and how many values it measured and recalled."""

    seconds: float
    peak: int
    measured: int
    recalled: int


def _compile(case: Case, folder: Path, *runs: Sequence[str]) -> Run:
    """Compile in processes that share a cache, which is empty before the first; return the last one's run."""
    with TemporaryDirectory() as cache:
        for options in runs:
            output = folder / "out.onnx"
            given = [case.model, "-o", output, "--data", case.data, "--force", *options]
            command = [str(ONNXQ), "compile", *map(str, given)]
            seconds, peak = ran(command, {**os.environ, "ONNXQ_CACHE": cache})
    data = json.loads(output.with_name("out.manifest.json").read_text())["data"] or {}
    return Run(seconds, peak, data.get("measured", 0), data.get("recalled", 0))


if __name__ == "__main__":
    sys.exit(main())
