"""CUDA: what onnxq emits for NVIDIA GPUs, compiled, compared and timed by one command.

With a GPU each model's artifacts are timed beside fp32, all interleaved in one process, inputs and outputs on
the device. With --dry-run, which needs none, every artifact is built, its numbers are compared on the CPU
with the rounding of float16 spelled out, and every node is looked up in the list of the CUDA provider's
kernels. The last table holds what is wanted; exits with 1 if something is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx_ir as ir
from cuda_cases import FP16, INT8, WEIGHTS_4, WEIGHTS_8, WEIGHTS_FP8, Artifact, Case, Feeds, Source
from measuring import environment, parser, real_tasks, show_tables
from rich.console import Console
from torch_cases import NAMES, missing, torch_rows

from onnxq.calibration.data import input_specs, open_feeds
from onnxq.comparison import CompileOptions
from onnxq.compile import CompileResult, compile_model
from onnxq.errors import OnnxqError
from onnxq.ir.rounding import spell_out_rounding
from onnxq.ir.store import load_model
from onnxq.kernels import load_kernels
from onnxq.recipe import load_recipe
from onnxq.runtime.bench import LatencyReport, bench
from onnxq.runtime.gpu import gpu
from onnxq.runtime.session import Session, open_session, usable_provider

NOT_TIMED = "Nothing was timed: this is a dry run."
OWN_ROUNDS = "PyTorch, with random weights, was timed in rounds of its own, after the others."
LEAST_COSINE = {FP16: 0.9999, WEIGHTS_8: 0.999}
"""What sentence embeddings must keep."""
ROUNDS, SECONDS = 30, 20.0
Row = dict[str, Any]


def main() -> int:
    args = _arguments()
    if not args.dry_run and usable_provider("cuda") is None:
        print("there is no GPU with a driver and onnxruntime-gpu; --dry-run needs neither", file=sys.stderr)
        return 2
    tables: dict[str, list[Row]] = {}
    wanted: list[Row] = []
    with TemporaryDirectory() as folder:
        source = Source(real_tasks(args.assets), Path(folder), args.minilm, args.quick)
        for name, make in source.cases():
            if args.only is None or args.only in name:
                one = _Run(make(), Path(folder), args)
                wanted += one.verdicts()
                tables |= one.tables
    tables["Wanted"] = wanted
    notes = [NOT_TIMED] if args.dry_run else [_devices(), missing("cuda") or OWN_ROUNDS]
    show_tables("CUDA", tables, [*notes, load_kernels("cuda").source], as_json=args.json)
    if args.output:
        content = {"environment": environment(), "tables": tables, "notes": notes}
        args.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return int(any(row["verdict"] == "missed" for row in wanted))


def _arguments() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("--dry-run", action="store_true", help="compile and check, without a GPU")
    options.add_argument("--quick", action="store_true", help="one layer of each architecture")
    options.add_argument("--only", help="models whose name holds this")
    options.add_argument("-o", "--output", type=Path, help="write everything as JSON, too")
    return options.parse_args()


def _devices() -> str:
    return "; ".join(f"{one.name}, driver {one.driver}" for one in gpu().devices)


@dataclass(frozen=True)
class _Built:
    """One artifact: its file, what its nodes lack on CUDA, and the options that it asks for."""

    path: Path
    lacking: Counter[str]
    nodes: int
    session_options: Mapping[str, str]


@dataclass
class _Run:
    """Builds, compares and times all artifacts of one model."""

    case: Case
    folder: Path
    args: argparse.Namespace
    tables: dict[str, list[Row]] = field(default_factory=dict)

    def verdicts(self) -> list[Row]:
        """Return what is wanted of this model, and whether it was reached."""
        with TemporaryDirectory(dir=self.folder) as folder:
            built = {name: self._build(name, one, Path(folder)) for name, one in self.case.artifacts.items()}
            cosines = self._cosines(built)
            self.tables[self.case.name] = [
                _row(name, one, cosines[name], self.case.model.stat().st_size) for name, one in built.items()
            ]
            rows = list(self._checked(built, cosines))
            return rows if self.args.dry_run else [*rows, *self._timed(built)]

    def _build(self, name: str, artifact: Artifact, folder: Path) -> _Built:
        self._say(f"build {name}")
        path = folder / f"{name.replace(' ', '-')}.onnx"
        recipe = load_recipe(artifact.recipe).with_options(artifact.options)
        feeds = self.case.sentences or next(iter(self.case.runs.values()))
        data = open_feeds("feeds", lambda: feeds, input_specs(load_model(self.case.model).model))
        result: CompileResult = compile_model(
            self.case.model,
            path,
            recipe=recipe,
            data=data if recipe.needs_data else None,
            options=CompileOptions(validate=False, bench=False, choose=False, tune=False),
        )
        module = load_model(path)
        missing = load_kernels("cuda").missing(module)
        lacking = Counter(f"{node.op_type}: {reason}" for node, reason in missing)
        return _Built(path, lacking, len(module.graph), result.manifest.session_options)

    def _cosines(self, built: Mapping[str, _Built]) -> dict[str, float]:
        """Return for each artifact the smallest cosine of its results to fp32's, on the CPU."""
        self._say("compare")
        feeds = self.case.sentences or next(iter(self.case.runs.values()))
        reference = open_session(self.case.model, threads=2)
        expected = [self._results(reference, one) for one in feeds]
        return {name: self._cosine(one.path, feeds, expected) for name, one in built.items()}

    def _cosine(self, path: Path, feeds: Sequence[Feeds], expected: Sequence[Any]) -> float:
        session = open_session(ir.to_proto(spell_out_rounding(load_model(path).model)), threads=2)
        pairs = zip((self._results(session, one) for one in feeds), expected, strict=True)
        return min(float(_row_cosines(found, wanted).min()) for found, wanted in pairs)

    def _results(self, session: Session, feeds: Feeds) -> Any:
        """Return the first output as rows: sentences pooled by their mask, others as they are."""
        values = next(iter(session.run(feeds).values())).astype(np.float64)
        if not self.case.sentences:
            return values.reshape(len(values), -1)
        mask = feeds["attention_mask"][..., None]
        return (values * mask).sum(axis=1) / mask.sum(axis=1)

    def _checked(self, built: Mapping[str, _Built], cosines: Mapping[str, float]) -> Iterator[Row]:
        for name, one in built.items():
            if self.case.artifacts[name].for_cuda:
                found = ", ".join(f"{count} x {what}" for what, count in one.lacking.items()) or "0"
                yield self._verdict(f"{name}: nodes without a kernel", "0", found, not one.lacking)
        for name, least in LEAST_COSINE.items() if self.case.sentences else ():
            found = f"{cosines[name]:.6f}"
            yield self._verdict(f"{name}: smallest cosine", f">= {least}", found, cosines[name] >= least)

    def _timed(self, built: Mapping[str, _Built]) -> Iterator[Row]:
        models = {"fp32": self.case.model, **{name: one.path for name, one in built.items()}}
        configs = {name: one.session_options for name, one in built.items()}
        allowed = sorted({what.partition(":")[0] for what in built[INT8].lacking})
        for title, feeds in self.case.runs.items():
            self._say(f"time {title}")
            try:
                report = bench(
                    models,
                    feeds,
                    "cuda",
                    rounds=ROUNDS,
                    seconds_budget=SECONDS,
                    allow_fallback=allowed,
                    configs=configs,
                )
            except OnnxqError as error:
                yield self._verdict(f"{title}: runs", "yes", str(error), False)
                continue
            rows = [_timed_row(report, name) for name in models]
            self.tables[f"{self.case.name}: {title}"] = [*rows, *self._torch(feeds[0], rows[0])]
            yield from self._speed_verdicts(title, report)

    def _torch(self, feeds: Feeds, fp32: Row) -> Iterator[Row]:
        """Yield PyTorch's rows, where it is there and knows the architecture; ratios are of medians."""
        if self.case.name not in NAMES or missing("cuda") is not None:
            return
        for row in torch_rows(self.case.name, feeds, device="cuda", quick=self.args.quick):
            ratio = None if row["ms"] is None else f"{fp32['ms'] / row['ms']:.2f}"
            yield {**dict.fromkeys(fp32), **row, "over fp32": ratio}

    def _speed_verdicts(self, title: str, report: LatencyReport) -> Iterator[Row]:
        least = 1.5 if "batch 32" in title else 1.0
        yield self._at_least(f"{title}: fp16 over fp32", least, _ratio(report, FP16, "fp32"))
        decoding = self.case.name == "decoder step" and title.startswith("batch 1,")
        for name in (WEIGHTS_8, WEIGHTS_4, WEIGHTS_FP8):
            least = 1.5 if decoding and name == WEIGHTS_4 else 1.0
            if self.case.name == "decoder step":
                yield self._at_least(f"{title}: {name} over fp16", least, _ratio(report, name, FP16))

    def _at_least(self, what: str, least: float, found: float) -> Row:
        return self._verdict(what, f">= {least}", f"{found:.2f}", round(found, 2) >= least)

    def _verdict(self, what: str, wanted: str, found: str, reached: bool) -> Row:
        told = {"what": what, "wanted": wanted, "found": found}
        return {"model": self.case.name, **told, "verdict": "ok" if reached else "missed"}

    def _say(self, what: str) -> None:
        Console(stderr=True, highlight=False).print(f"{self.case.name}: {what}")


def _row_cosines(found: Any, wanted: Any) -> Any:
    products = (found * wanted).sum(axis=1)
    return products / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)


def _row(name: str, one: _Built, cosine: float, source_size: int) -> Row:
    size = one.path.stat().st_size
    return {
        "artifact": name,
        "MB": round(size / 1e6, 1),
        "of fp32": f"{size / source_size:.2f}",
        "cosine": f"{cosine:.6f}",
        "nodes": one.nodes,
        "without a CUDA kernel": ", ".join(f"{count} x {what}" for what, count in one.lacking.items()) or "0",
    }


def _timed_row(report: LatencyReport, name: str) -> Row:
    timed = next(one for one in report.models if one.name == name)
    taken, spread = timed.footprint, timed.latency_ms
    return {
        "artifact": name,
        "ms": round(spread.median, 3),
        "p10 .. p90": f"{spread.p10:.3f} .. {spread.p90:.3f}",
        "over fp32": f"{timed.paired_speedup.median:.2f}",
        "over fp16": f"{_ratio(report, name, FP16):.2f}",
        "device MB": None if taken is None or taken.device_bytes is None else taken.device_bytes // 10**6,
        "copies": len(timed.kernels.copies),
    }


def _ratio(report: LatencyReport, name: str, base: str) -> float:
    """Return how many times faster one artifact is than another: the median over the rounds."""
    rounds = {one.name: np.array(one.rounds_ms) for one in report.models}
    return float(np.median(rounds[base] / rounds[name]))


if __name__ == "__main__":
    sys.exit(main())
