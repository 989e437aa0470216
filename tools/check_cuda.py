"""CUDA: what onnxq emits for NVIDIA GPUs, compiled, compared and timed by one command.

First every artifact is made, compared on the CPU with the rounding of float16 spelled out, and its nodes are
looked up in the list of the CUDA provider's kernels; --prepare DIR stops there, and needs no GPU. Then each
is timed beside fp32, interleaved in one process, inputs and outputs on the device; --prepared DIR starts
there. Each row is printed and kept as soon as it is known, and not measured again by the next command. The
last table holds what is wanted; exits with 1 if something is missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch_cases
from cuda_cases import FP16, GRAPH_BATCHES, cases, runs, title
from cuda_prepared import Prepared, Record, append_line, prepare, read_lines
from cuda_timing import GRAPH, PLACES, PLAIN, Timer
from cuda_verdicts import Verdicts, lacking_text
from measuring import parser, real_tasks, show_tables

from onnxq.kernels import load_kernels
from onnxq.runtime.gpu import gpu
from onnxq.runtime.session import usable_provider

NOT_TIMED = "Nothing was timed: there was no GPU, or it was not asked for."
OWN_WEIGHTS = "Timed with random weights, which speed does not depend on; cosines are of the models' own."
OWN_ROUNDS = "PyTorch, in float16 and with random weights, was timed in rounds of its own."
KEY = ("model", "run", "artifact", "form")
"""What tells one row from another."""
Row = dict[str, Any]


def main() -> int:
    args = _arguments()
    timed = args.prepare is None
    if timed and usable_provider("cuda") is None:
        print(
            "there is no GPU with a driver and onnxruntime-gpu; --prepare DIR needs neither", file=sys.stderr
        )
        return 2
    with TemporaryDirectory() as folder:
        prepared = Prepared(args.prepare or args.prepared or Path(folder))
        check = _Check(args, prepared, args.rows or prepared.folder / "rows.jsonl")
        if args.prepared is None:
            check.prepare()
        if timed:
            check.time(Path(folder))
        wanted = check.wanted()
        notes = [_devices(), OWN_WEIGHTS, torch_cases.missing("cuda") or OWN_ROUNDS] if timed else [NOT_TIMED]
        notes += [*check.failures(), *check.unfinished]
        tables = check.tables() | {"Wanted": wanted}
        show_tables("CUDA", tables, [*notes, load_kernels("cuda").source], as_json=args.json)
    return int(any(row["verdict"] == "missed" for row in wanted))


def _arguments() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("--prepare", type=Path, metavar="DIR", help="make all artifacts in DIR, and stop")
    options.add_argument("--prepared", type=Path, metavar="DIR", help="time those that --prepare made in DIR")
    options.add_argument("--rows", type=Path, metavar="FILE", help="where measured rows are kept")
    options.add_argument("--minutes", type=float, default=60.0, help="start no row after so many")
    options.add_argument("--quick", action="store_true", help="one layer of each architecture")
    options.add_argument("--only", default="", help="models whose name holds this")
    return options.parse_args()


def _devices() -> str:
    return "; ".join(f"{one.name}, driver {one.driver}" for one in gpu().devices)


@dataclass
class _Check:
    """One run of the command: what is there already, and how much time is left."""

    args: argparse.Namespace
    prepared: Prepared
    rows: Path
    unfinished: list[str] = field(default_factory=list)
    start: float = field(default_factory=time.monotonic)

    def prepare(self) -> None:
        """Make every artifact that is not there yet."""
        for case in cases(self.args.minilm, real_tasks(self.args.assets), quick=self.args.quick):
            if self.args.only not in case.name or not self._in_time("preparing"):
                continue
            for record in prepare(case, self.prepared, quick=self.args.quick):
                self._say(record)
                if not self._in_time("preparing"):
                    break

    def time(self, folder: Path) -> None:
        """Measure every row that is not there yet: times, where nodes ran, and PyTorch's times."""
        models = self._records().items()
        for name, records in models:
            self._keep(self._timer(name, records, folder).times())
        for name, records in models:
            self._keep(self._timer(name, records, folder).places())
        for name, records in models:
            if name in torch_cases.NAMES and torch_cases.missing("cuda") is None:
                self._keep(self._torch_rows(name, quick=records[0]["quick"]))

    def _timer(self, name: str, records: Sequence[Record], folder: Path) -> Timer:
        return Timer(name, records, self.prepared, folder, self._is_wanted)

    def _torch_rows(self, name: str, *, quick: bool) -> Iterator[Record]:
        titles = runs(name, quick=quick)
        for run in (title(name, size) for size in GRAPH_BATCHES):
            for form in torch_cases.FORMS:
                row = {"model": name, "run": run, "artifact": f"torch, {form}", "form": PLAIN}
                if self._is_wanted(row):
                    yield row | _torch_row(name, titles[run], form, quick=quick)

    def _keep(self, rows: Iterator[Record]) -> None:
        for row in rows:
            append_line(self.rows, row)
            self._say(row)

    def _is_wanted(self, row: Record) -> bool:
        """Tell whether there is time for a row that is not there yet."""
        there = (row.items() <= one.items() for one in read_lines(self.rows))
        return not any(there) and self._in_time("timing")

    def _in_time(self, doing: str) -> bool:
        in_time = time.monotonic() - self.start < 60 * self.args.minutes
        if not in_time and not self.unfinished:
            self.unfinished.append(
                f"The minutes were over while {doing}; the same command goes on from there."
            )
        return in_time

    def _say(self, row: Record) -> None:
        """Print one row at once."""
        names = " | ".join(row[key] for key in KEY if row.get(key))
        told = ", ".join(f"{key} {value}" for key, value in row.items() if key not in KEY)
        print(f"{time.monotonic() - self.start:6.1f} s  {names}: {told}", flush=True)

    def _records(self) -> dict[str, list[Record]]:
        found: dict[str, list[Record]] = {}
        for record in self.prepared.records():
            if self.args.only in record["model"]:
                found.setdefault(record["model"], []).append(record)
        return found

    def _rows_of(self, name: str) -> list[Record]:
        return [row for row in read_lines(self.rows) if row["model"] == name]

    def wanted(self) -> list[Row]:
        """Return what is wanted, and whether it was reached."""
        models = self._records().items()
        return [row for name, records in models for row in Verdicts(name, records, self._rows_of(name)).all()]

    def failures(self) -> list[str]:
        """Return why what failed did, once for each artifact."""
        failed = (row for name in self._records() for row in self._rows_of(name) if "failed" in row)
        lines = (f"{row['model']}, {row['artifact']}, {row['form']}: {row['failed']}" for row in failed)
        return list(dict.fromkeys(lines))

    def tables(self) -> dict[str, list[Row]]:
        """Return everything that is known, by model and run."""
        found: dict[str, list[Row]] = {}
        for name, records in self._records().items():
            rows = self._rows_of(name)
            places = {row["artifact"]: row for row in rows if row["form"] == PLACES}
            found[name] = [_known(record, places.get(record["artifact"])) for record in records]
            for run in dict.fromkeys(row["run"] for row in rows):
                found[f"{name}: {run}"] = list(_timed([row for row in rows if row["run"] == run]))
        return found


def _torch_row(name: str, feeds: Callable[[], Any], form: str, *, quick: bool) -> Record:
    try:
        spread = torch_cases.torch_times(name, feeds(), device="cuda", form=form, quick=quick)
    except RuntimeError as error:  # no compiler, or too little memory
        return {"failed": str(error).partition("\n")[0]}
    return {"ms": round(spread.median, 4), "p10": round(spread.p10, 4), "p90": round(spread.p90, 4)}


def _known(record: Record, place: Record | None) -> Row:
    """Return what is known of one artifact but its speed."""
    row = {"artifact": record["artifact"], "MB": record["MB"], "cosine": record.get("cosine")}
    row |= {"nodes": record.get("nodes"), "without a CUDA kernel": lacking_text(record.get("lacking", {}))}
    if place is not None:
        row["ran elsewhere"] = "failed" if "failed" in place else lacking_text(place["elsewhere"])
    return row


def _timed(rows: Sequence[Record]) -> Iterator[Row]:
    """Yield a row for each artifact, with what the CUDA graph took beside it."""
    times = {(row["artifact"], row["form"]): row for row in rows}
    fp16 = times.get((FP16, PLAIN), {}).get("over fp32")
    for name in dict.fromkeys(name for name, _ in times):
        plain, graph = times.get((name, PLAIN), {}), times.get((name, GRAPH), {})
        yield {
            "artifact": name,
            "ms": plain.get("ms"),
            "p10 .. p90": _range(plain),
            "over fp32": plain.get("over fp32"),
            "over fp16": _ratio(plain.get("over fp32"), fp16),
            "graph, ms": "failed" if "failed" in graph else graph.get("ms"),
            "graph over fp16": _ratio(graph.get("over fp32"), fp16),
        }


def _range(row: Mapping[str, Any]) -> str | None:
    return f"{row['p10']:.3f} .. {row['p90']:.3f}" if "p10" in row else row.get("failed") and "failed"


def _ratio(own: float | None, base: float | None) -> str | None:
    return None if own is None or base is None else f"{own / base:.2f}"


if __name__ == "__main__":
    sys.exit(main())
