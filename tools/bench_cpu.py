"""Latency on the CPU: onnxq against fp32, onnxruntime's quantizers and optimum's, all interleaved in one run.

Each table is one model, one input shape and one number of threads. Speeds are medians of the ratio to fp32
within a round, with the tenth and ninetieth percentile. Layers are matrix products and convolutions, counted
by how they ran. Results are compared with fp32's on real data; all calibrate on the same other data. The last
table holds what is wanted; exits with 1 if something is missed.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import peers
from cpu_cases import Case, Feeds, Source
from cpu_limits import PROBE, add_probe, kernel_table
from cpu_verdicts import Measured, verdict_rows
from measuring import parser, real_tasks, show_tables
from numpy.typing import NDArray
from rich.console import Console

from onnxq.analysis.layers import linear_layers
from onnxq.calibration.data import Dataset, input_specs, open_feeds
from onnxq.comparison import CompileOptions
from onnxq.compilation import CompileResult
from onnxq.compile import compile_model
from onnxq.ir.module import LINEAR, constant_of
from onnxq.ir.store import load_model
from onnxq.recipe import load_recipe
from onnxq.runtime.batch import batch_size
from onnxq.runtime.bench import LatencyReport, ModelLatency, Timing, bench
from onnxq.runtime.invariance import InvarianceReport, check_invariance
from onnxq.runtime.kernels import LayerState
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session

Build = Callable[[Path], object]
TUNED = ("mnist_vit", "mnist_cntk")
"""Models too small for int8 to pay everywhere."""
SMALL_TABLE = 100_000
"""Values; a table of token types has fewer, and so has a column of scales."""
ROUNDS, SECONDS = 20, 5.0
QUICK_ROUNDS, QUICK_SECONDS = 7, 1.0


def main() -> int:
    args = _arguments()
    logging.disable(logging.WARNING)  # onnxruntime.quantization says a lot
    tasks = real_tasks(args.assets)
    if tasks is None or not args.minilm:
        print("needs the evaluation data among the assets, and --minilm FILE", file=sys.stderr)
        return 2
    tables: dict[str, list[dict[str, Any]]] = {}
    notes: list[str] = []
    measured: list[Measured] = []
    with TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder  # so that tuning measures, whatever it remembers
        for name, make in Source(tasks, Path(folder), args.minilm, args.quick).cases():
            if args.only is None or args.only in name:
                one = _Run(make(), Path(folder), args)
                measured.append(one.measure())
                tables |= one.tables
                notes += one.notes
    tables["Wanted"] = [row for one in measured for row in verdict_rows(one)]
    show_tables("Latency on the CPU", tables, notes, as_json=args.json)
    return int(any(row["verdict"] == "missed" for row in tables["Wanted"]))


def _arguments() -> argparse.Namespace:
    options = parser(__doc__, several=True)
    options.add_argument("--only", help="models whose name holds this")
    options.add_argument("--threads", help="numbers of threads; 1,2, or with --quick 1")
    options.add_argument("--quick", action="store_true", help="fewer rounds, samples, layers and rows")
    options.add_argument("--optimum", type=Path, help="optimum-cli, where it is not on the path")
    args = options.parse_args()
    args.threads = [int(count) for count in (args.threads or ("1" if args.quick else "1,2")).split(",")]
    args.optimum = args.optimum or (Path(found) if (found := shutil.which("optimum-cli")) else None)
    return args


@dataclass
class _Run:
    """Builds, times and compares all artefacts of one model.

    Where results mean nothing, the compilation chooses nothing by them.
    """

    case: Case
    folder: Path
    args: argparse.Namespace
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def measure(self) -> Measured:
        """Return everything measured; the files are gone afterwards."""
        with TemporaryDirectory(dir=self.folder) as folder:
            models = self._built(Path(folder))
            accuracy = self._accuracy(models)
            reports = {
                (title, threads): self._timed(title, feeds, threads, models)
                for title, feeds in self.case.runs.items()
                for threads in self.args.threads
            }
            for (title, threads), report in reports.items():
                name = f"{self.case.name}: {title}, {threads} thread{'s' * (threads > 1)}"
                self.tables[name] = [_row(timed, accuracy) for timed in report.models if timed.name != PROBE]
            self._limits(reports, models)
            static = models["onnxq static"]
            return Measured(
                case=self.case,
                reports=reports,
                accuracy=accuracy,
                layers=sum(1 for _ in linear_layers(load_model(models["fp32 lowered"]))),
                float_tables=_float_tables(static),
                invariance=self._invariance(static),
            )

    def _built(self, folder: Path) -> dict[str, Path]:
        models = {"fp32": self.case.model}
        for name, build in self._builders().items():
            self._say(f"build {name}")
            path = folder / f"{name.replace(' ', '-')}.onnx"
            try:
                build(path)
            except subprocess.CalledProcessError as error:
                reason = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
                self.notes.append(f"{self.case.name}: {name} failed: {' '.join(reason)}")
                continue
            models[name] = path
        return models

    def _builders(self) -> dict[str, Build]:
        source, command = self.case.model, self.args.optimum
        builders: dict[str, Build] = {
            "fp32 lowered": lambda path: self._compile("fp32", path),
            "onnxq static": lambda path: self._compile("cpu", path),
            "onnxq portable": lambda path: self._compile("portable", path),
            "onnxq dynamic": lambda path: self._compile("cpu-dynamic", path),
            "quantize_dynamic": lambda path: peers.quantize_dynamic(source, path),
            "quantize_static": lambda path: peers.quantize_static(source, path, self.case.calibration),
        }
        if self.args.quick:
            return builders
        if self.case.name in TUNED:
            builders["onnxq tuned"] = self._tune
        if command is not None:
            builders["optimum"] = lambda path: peers.optimum(command, source, path)
        else:
            self.notes.append(f"{self.case.name}: no row for optimum, as there is no optimum-cli")
        return builders

    def _compile(self, recipe: str, path: Path, options: CompileOptions | None = None) -> CompileResult:
        options = options or CompileOptions(validate=False, bench=False, choose=self.case.has_results)
        chosen = load_recipe(recipe)
        samples = {"samples": sum(map(batch_size, self.case.calibration))}
        chosen = chosen.model_copy(update={"calibration": chosen.calibration.model_copy(update=samples)})
        return compile_model(
            self.case.model,
            path,
            recipe=chosen,
            data=self._data(self.case.calibration) if chosen.needs_data else None,
            options=replace(options, validation_data=self._data(self.case.held_out)),
        )

    def _data(self, feeds: Sequence[Feeds]) -> Dataset:
        return open_feeds("feeds", lambda: feeds, input_specs(load_model(self.case.model).model))

    def _tune(self, path: Path) -> None:
        result = self._compile("cpu", path, CompileOptions(validate=False, threads=1))
        dropped = [verdict.name for verdict in result.manifest.tuning or () if verdict.dropped]
        said = [*(f"left out, as faster without: {name}" for name in dropped), *result.manifest.warnings]
        self.notes.append(f"{self.case.name}, onnxq tuned: {'; '.join(said) or 'everything pays'}.")

    def _timed(
        self, title: str, feeds: Sequence[Feeds], threads: int, models: Mapping[str, Path]
    ) -> LatencyReport:
        self._say(f"time {title}, threads {threads}")
        if self._has_limit(title, threads):
            models, feeds = add_probe(models, feeds, self.folder)
        rounds, seconds = (QUICK_ROUNDS, QUICK_SECONDS) if self.args.quick else (ROUNDS, SECONDS)
        return bench(
            models,
            feeds,
            Run(threads=threads),
            Timing(rounds=rounds, seconds=seconds, memory=False),
            source=self.case.model,
        )

    def _has_limit(self, title: str, threads: int) -> bool:
        return self.case.compared == "embeddings" and title == "batch 1, 128 tokens" and threads == 1

    def _limits(self, reports: Mapping[tuple[str, int], LatencyReport], models: Mapping[str, Path]) -> None:
        for (title, threads), report in reports.items():
            if self._has_limit(title, threads):
                self._say("profile kernels")
                rows, note = kernel_table(self.case, models, self.case.runs[title][0], report)
                self.tables[f"{self.case.name}: kernels of onnxq static, {title}, 1 thread"] = rows
                self.notes.append(f"{self.case.name}: {note}")

    def _accuracy(self, models: Mapping[str, Path]) -> dict[str, dict[str, float]]:
        if not self.case.held_out:
            return {}
        self._say("compare results")
        wanted = _results(self.case.model, self.case.held_out)
        compare = _pooled if self.case.compared == "embeddings" else _logits
        found = {}
        for name, path in models.items():
            given = _results(path, self.case.held_out)
            found[name] = {**compare(self.case.held_out, wanted, given), "max diff": _moved(wanted, given)}
        return found

    def _invariance(self, model: Path) -> InvarianceReport | None:
        batches = [feeds for title, feeds in self.case.runs.items() if title == "batch 8, ragged sentences"]
        return check_invariance(model, batches[0][0], Run(threads=1)) if batches else None

    def _say(self, what: str) -> None:
        Console(stderr=True).print(f"[dim]{self.case.name}: {what}")


def _float_tables(model: Path) -> int:
    """Return how many look-ups read float rows; neither small tables nor scales, one a row, count."""
    gathers = (node for node in load_model(model).graph if node.op_type == "Gather")
    tables = (table for node in gathers if (table := constant_of(node.inputs[0])) is not None)
    return sum(table.ndim == 2 and table.size > SMALL_TABLE and table.dtype.kind == "f" for table in tables)


def _row(timed: ModelLatency, accuracy: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    states = [layer.state for layer in timed.kernels.provenance.layers if layer.op_type in LINEAR]
    speed = timed.paired_speedup
    return {
        "artefact": timed.name,
        "ms": timed.latency_ms.median,
        "speed": round(speed.median, 2),
        "p10..p90": f"{speed.p10:.2f}..{speed.p90:.2f}",
        "MB": round(timed.size_bytes / 1e6, 2),
        "int": states.count(LayerState.INTEGER),
        "float": states.count(LayerState.FLOAT),
        "unfused": states.count(LayerState.UNFUSED),
        **accuracy.get(timed.name, {}),
    }


def _results(model: Path, feeds: Sequence[Feeds]) -> list[NDArray[np.float64]]:
    session = open_session(model, Run(threads=2))
    return [session.run(one)[session.output_names[0]].astype(np.float64) for one in feeds]


Results = Sequence[NDArray[np.float64]]


def _pooled(feeds: Sequence[Feeds], wanted: Results, found: Results) -> dict[str, float]:
    """Return the cosines of mean-pooled embeddings."""
    first, second = (np.concatenate(list(_means(feeds, part))) for part in (wanted, found))
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosines = (first * second).sum(axis=1) / norms
    return {"cosine": round(float(cosines.mean()), 4), "min": round(float(cosines.min()), 4)}


def _means(feeds: Sequence[Feeds], results: Results) -> Iterator[NDArray[np.float64]]:
    for one, tokens in zip(feeds, results, strict=True):
        mask = one["attention_mask"][..., None]
        yield (tokens * mask).sum(axis=1) / mask.sum(axis=1)


def _logits(feeds: Sequence[Feeds], wanted: Results, found: Results) -> dict[str, float]:
    """Return how often the largest logit is the same, and the signal-to-noise ratio of all."""
    first, second = (np.concatenate([one.reshape(len(one), -1) for one in part]) for part in (wanted, found))
    noise = float(np.square(first - second).sum())
    sqnr = 10 * np.log10(np.square(first).sum() / noise) if noise else float("inf")
    agreement = 100 * float((first.argmax(axis=1) == second.argmax(axis=1)).mean())
    return {"agree %": round(agreement, 2), "SQNR dB": round(float(sqnr), 1)}


def _moved(wanted: Results, found: Results) -> float:
    """Return the largest difference, as a part of the largest value."""
    largest = max(float(np.abs(one).max()) for one in wanted)
    return max(float(np.abs(a - b).max()) for a, b in zip(wanted, found, strict=True)) / largest


if __name__ == "__main__":
    sys.exit(main())
