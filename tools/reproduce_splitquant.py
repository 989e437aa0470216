"""SplitQuant on BERT-Tiny and all-MiniLM-L6-v2: accuracy, agreement, latency, errors and seconds.

Weights only, as published: activations, embeddings and biases stay in float. ``plain`` has one grid for
each tensor, ``blocks`` one for each 128 values of an output, without an exact zero. ``branches`` are three
layers cut by k-means, ``fused`` is one layer, ``best cuts`` cuts it where the error is least. The last table
holds what is wanted; exits with 1 if something is missed.

Source: Song and Lin, 2025, arXiv:2501.12428.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from measuring import parser, real_tasks, show_tables
from numpy.typing import NDArray
from rich.console import Console
from split_cases import Case, cases

from onnxq.analysis.layers import linear_layers
from onnxq.calibration.data import input_specs, open_feeds
from onnxq.comparison import CompileOptions
from onnxq.compile import compile_model
from onnxq.ir.module import GraphModule, array_of
from onnxq.ir.store import load_model
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.quant.encodings import block_encoding, symmetric_encoding
from onnxq.quant.split import (
    distinct_values,
    packed_bits,
    part_labels,
    rounded_around_zero,
    rounded_tightly,
    row_length,
    rows_of,
)
from onnxq.recipe import load_recipe
from onnxq.runtime.bench import LatencyReport, Timing, bench
from onnxq.runtime.run import Run
from onnxq.runtime.session import Optimization, open_session
from onnxq.target import find_target

BITS = (2, 4, 8)
BLOCK = 128
FORMS = {
    "plain": "parts=1, scope=tensor, tight=false",
    "branches": "mode=branches, scope=tensor, cuts=kmeans",
    "fused": "scope=tensor, cuts=kmeans",
    "fused, best cuts": "scope=tensor, cuts=mse",
    "plain, blocks": "parts=1, scope=block",
    "branches, blocks": "mode=branches, scope=block, cuts=kmeans",
    "fused, blocks": "scope=block, cuts=kmeans",
    "fused, blocks, best cuts": "scope=block, cuts=mse",
}
SAME_GRIDS = "scope=tensor, cuts=kmeans, bits=2"
PARTS_OF_ACTIVATIONS = "mode=split, groups=3, order=index, kinds=norm+activation"
RECIPES = {
    "plain int8": "encode-weights",
    "branches": "split-linear{mode=branches, bits=2}",
    "fused": "split-linear{bits=2}",
    "activations in 3 parts": f"group-embeddings{{{PARTS_OF_ACTIVATIONS}}}, encode-weights",
}


@dataclass(frozen=True)
class Form:
    """One way to quantize weights.

    Args:
        name: What the table calls it.
        bits: The width of a grid.
        scope: What shares cuts and grids.
        parts: How many.
        cuts: What the cuts are best for.
        tight: Whether a grid covers its part alone.
        known: Decibels that are known to be reached.

    """

    name: str
    bits: int
    scope: str
    parts: int = 3
    cuts: Literal["kmeans", "range", "mse"] = "kmeans"
    tight: bool = False
    known: float | None = None


ERRORS = (
    Form("plain", 2, "tensor", parts=1, known=0.7),
    Form("branches", 2, "tensor", known=4.3),
    Form("fused", 2, "tensor", tight=True, known=7.9),
    Form("fused, range cuts", 2, "tensor", cuts="range", tight=True, known=9.7),
    Form("fused, best cuts", 2, "tensor", cuts="mse", tight=True, known=9.7),
    Form("branches", 2, "channel", known=12.1),
    Form("fused, best cuts", 2, "channel", cuts="mse", tight=True, known=12.1),
    Form("plain", 2, "block", parts=1, tight=True),
    Form("fused, best cuts", 2, "block", cuts="mse", tight=True),
    Form("fused, range cuts", 4, "tensor", cuts="range", tight=True),
    Form("fused, range cuts", 4, "channel", cuts="range", tight=True),
)
PLAIN = {
    "4 bits, blocks of 32": (4 + 36 / 32, lambda weight, axis: block_encoding(weight, "uint4", 1 - axis, 32)),
    "8 bits, channel": (
        8.0,
        lambda weight, axis: symmetric_encoding(np.abs(weight).max(1 - axis), axis=axis),
    ),
}
"""What is usual at equal storage: bits a weight, and the encoding of a matrix."""
TIMED_CUTS = (("tensor", "kmeans"), ("tensor", "mse"), ("channel", "kmeans"), ("channel", "range"))
RECOVERED, AGREEMENT, SLOWER, SECONDS = 0.8, 1e-6, 0.97, 10.0
ROUNDS, BUDGET, QUICK_ROUNDS, QUICK_BUDGET, QUICK_ROWS = 40, 20.0, 7, 2.0, 200


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--quick", action="store_true", help="fewer rows and rounds")
    options.add_argument("--only", help="models whose name holds this")
    args = options.parse_args()
    tasks = real_tasks(args.assets)
    if tasks is None or args.minilm is None:
        print("needs the evaluation data among the assets, and --minilm FILE", file=sys.stderr)
        return 2
    tables: dict[str, list[dict[str, Any]]] = {}
    wanted: list[dict[str, Any]] = []
    for case in cases(args.assets, args.minilm, tasks, QUICK_ROWS if args.quick else None):
        if args.only is None or args.only in case.name:
            run = _Run(case, args.quick)
            tables |= run.measure()
            wanted += run.wanted
    show_tables("SplitQuant", tables | {"Wanted": wanted}, [], as_json=args.json)
    return int(any(row["verdict"] == "missed" for row in wanted))


@dataclass
class _Run:
    """Measures one model."""

    case: Case
    quick: bool
    wanted: list[dict[str, Any]] = field(default_factory=list)
    _source: GraphModule = field(init=False)

    def measure(self) -> dict[str, list[dict[str, Any]]]:
        """Return the tables."""
        start = load_recipe("weight-only").pipeline.partition("encode-weights")[0]
        self._source = _ran(load_model(self.case.model), f"{start} convert-opset{{minimum=21}}")
        tables = {f"{self.case.name}: {self.case.unit}": self._accuracy()}
        self._agreement()
        tables[f"{self.case.name}: static, activations in int8; batch 1, one thread"] = self._latency()
        if "MiniLM" in self.case.name:
            tables["MiniLM: signal to noise of the weights, mean of all layers; bits a weight, packed"] = (
                self._errors()
            )
            tables["MiniLM: cutting and splitting all layers, one core"] = self._seconds()
        return tables

    def _accuracy(self) -> list[dict[str, Any]]:
        self._say("accuracy of fp32")
        scores = {("fp32", 32): self.case.score(_floating(self._source, self.case))}
        for form, options in FORMS.items():
            for bits in BITS:
                self._say(f"accuracy of {form}, INT{bits}")
                module = self._split(f"{options}, bits={bits}")
                scores[form, bits] = self.case.score(_floating(module, self.case))
        self.wanted += _accuracy_verdicts(self.case, scores)
        rows = [{"form": "fp32", "fp32": round(scores["fp32", 32], 2), **_published(self.case, "fp32")}]
        for form in FORMS:
            found = {f"INT{bits}": round(scores[form, bits], 2) for bits in BITS}
            rows.append({"form": form, **found, **_published(self.case, form)})
        return rows

    def _agreement(self) -> None:
        """Compare branches with one weight on the same grids, whose values are not yet carried in int8."""
        self._say("agreement")
        branches = self._split(f"mode=branches, {SAME_GRIDS}")
        fused = _ran(self._copy(), f"split-linear{{tight=false, {SAME_GRIDS}}}")
        apart, joined = (
            np.concatenate([r.ravel() for r in _floating(m, self.case)]) for m in (branches, fused)
        )
        found = float(np.linalg.norm(apart - joined) / np.linalg.norm(joined))
        self._want("2", "branches - fused, relative", f"<= {AGREEMENT:g}", f"{found:.1e}", found <= AGREEMENT)

    def _latency(self) -> list[dict[str, Any]]:
        self._say("latency")
        with TemporaryDirectory() as folder:
            models = {"fp32": self.case.model}
            for name, text in RECIPES.items():
                models[name] = Path(folder) / f"{name.replace(' ', '-')}.onnx"
                self._compile(text, models[name])
            report = self._timed(models, "fp32")
            scores = {
                name: self.case.score(_results(path, self.case, "all")) for name, path in models.items()
            }
            plain = self._timed({name: models[name] for name in ("plain int8", "fused", "branches")}, "int8")
        ratio = plain.models[1].paired_speedup.median
        self._want("3", "fused / plain int8, speed", f">= {SLOWER}", f"{ratio:.3f}", ratio >= SLOWER)
        return _latency_rows(report, scores)

    def _timed(self, models: Mapping[str, Path], what: str) -> LatencyReport:
        rounds, budget = (QUICK_ROUNDS, QUICK_BUDGET) if self.quick else (ROUNDS, BUDGET)
        self._say(f"time beside {what}")
        timing = Timing(rounds=rounds, seconds=budget, memory=False)
        return bench(models, self.case.timed, Run(threads=1), timing)

    def _compile(self, weights: str, path: Path) -> None:
        recipe = load_recipe("cpu")
        pipeline = recipe.pipeline.replace("encode-weights", weights)
        specs = input_specs(load_model(self.case.model).model)
        compile_model(
            self.case.model,
            path,
            recipe=recipe.model_copy(update={"pipeline": pipeline}),
            data=open_feeds("feeds", lambda: self.case.calibration, specs),
            options=CompileOptions(validate=False, bench=False, tune=False),
        )

    def _errors(self) -> list[dict[str, Any]]:
        layers = [(array_of(layer.weight), layer.channel_axis) for layer in linear_layers(self._source)]
        rows = []
        for form in ERRORS:
            self._say(f"errors of {form.name}, {form.scope}, INT{form.bits}")
            found = [_error_of(weight, axis, form) for weight, axis in layers]
            ratio, bits = (float(np.mean(numbers)) for numbers in zip(*found, strict=True))
            name = f"INT{form.bits} {form.name}, {form.scope}"
            rows.append({"weights": name, "dB": round(ratio, 1), "bits": round(bits, 2)})
            if form.known is not None:
                reached = round(ratio, 1) >= form.known
                self._want("4", f"dB of {name}", f">= {form.known}", f"{ratio:.2f}", reached)
        for name, (bits, encoding_of) in PLAIN.items():
            encoded = [(weight, encoding_of(weight, axis)) for weight, axis in layers]
            ratios = [
                _decibels(weight, coded.dequantize(coded.quantize(weight))) for weight, coded in encoded
            ]
            rows.append({"weights": name, "dB": round(float(np.mean(ratios)), 1), "bits": bits})
        return rows

    def _seconds(self) -> list[dict[str, Any]]:
        rows = []
        for scope, cuts in (
            ("tensor", "kmeans"),
            ("tensor", "mse"),
            ("channel", "kmeans"),
            ("channel", "range"),
        ):
            self._say(f"seconds of {scope}, {cuts}")
            module, start = self._copy(), time.process_time()
            _ran(module, f"split-linear{{mode=branches, bits=2, scope={scope}, cuts={cuts}}}")
            spent = time.process_time() - start
            rows.append({"scope": scope, "cuts": cuts, "seconds": round(spent, 2)})
            if (scope, cuts) == ("tensor", "kmeans"):
                self._want("5", "seconds, as published", f"< {SECONDS:g}", f"{spent:.1f}", spent < SECONDS)
        return rows

    def _split(self, options: str) -> GraphModule:
        return _ran(self._copy(), f"split-linear{{{options}}}, insert-qdq, remove-dead")

    def _copy(self) -> GraphModule:
        return GraphModule(self._source.model.clone())

    def _want(self, point: str, what: str, wanted: str, found: str, reached: bool) -> None:
        self.wanted.append(_verdict(point, self.case.name, what, wanted, found, reached))

    def _say(self, what: str) -> None:
        Console(stderr=True).print(f"[dim]{self.case.name}: {what}")


def _ran(module: GraphModule, pipeline: str) -> GraphModule:
    PassManager(parse_pipeline(pipeline), find_target("portable")).run(module)
    return module


def _floating(module: GraphModule, case: Case) -> list[NDArray[np.float32]]:
    """Run the held-out data; basic optimisation keeps activations in float, unlike MatMulNBits."""
    return _results(ir.to_proto(module.model), case, "basic")


def _results(model: Any, case: Case, optimization: Optimization) -> list[NDArray[np.float32]]:
    session = open_session(model, Run(threads=2), optimization=optimization)
    return [session.run(feeds)[session.output_names[0]] for feeds in case.feeds]


def _error_of(weight: NDArray[Any], axis: int, form: Form) -> tuple[float, float]:
    """Return the signal-to-noise ratio of one weight in decibels, and what a value of it takes in bits."""
    rows = rows_of(weight, axis, row_length(weight, axis, form.scope, BLOCK))
    labels, length = part_labels(rows, form.parts, form.cuts, form.bits), rows.shape[1]
    rounded = (rounded_tightly if form.tight else rounded_around_zero)(rows, labels, form.bits)
    bits = form.parts * (form.bits + (32 + form.bits) / length)
    if form.tight and form.parts > 1:
        bits = packed_bits(distinct_values(rounded), length, 8)
    return _decibels(rows, rounded), bits


def _decibels(weight: NDArray[Any], restored: NDArray[Any]) -> float:
    noise = np.square((restored - weight).astype(np.float64)).sum()
    return float(10 * np.log10(np.square(weight.astype(np.float64)).sum() / noise))


def _published(case: Case, form: str) -> dict[str, float]:
    """Return the paper's number where the row has what it measured: INT2, quantized by blocks."""
    place = {"fp32": 0, "plain, blocks": 1, "branches, blocks": 2}.get(form)
    return {} if place is None or case.paper is None else {"paper, INT2": case.paper[place]}


def _accuracy_verdicts(case: Case, scores: Mapping[tuple[str, int], float]) -> Iterator[dict[str, Any]]:
    full = scores["fp32", 32]
    for suffix in ("", ", blocks"):
        if case.paper is not None:
            gain = case.paper[2] - case.paper[1]
            loss = full - scores[f"plain{suffix}", 2]
            least = gain if loss >= gain else RECOVERED * loss
            for form in ("branches", "fused"):
                found = scores[f"{form}{suffix}", 2] - scores[f"plain{suffix}", 2]
                wanted = f">= {least:.2f} of {loss:.2f}"
                what = f"INT2 points recovered, {form}{suffix}"
                yield _verdict("1", case.name, what, wanted, f"{found:.2f}", found >= least)
        for bits in BITS:
            found = scores[f"fused{suffix}", bits] - scores[f"branches{suffix}", bits]
            what = f"INT{bits} fused - branches{suffix}, points"
            yield _verdict("1", case.name, what, ">= 0", f"{found:.2f}", found >= 0)


def _verdict(point: str, model: str, what: str, wanted: str, found: str, reached: bool) -> dict[str, Any]:
    verdict = "ok" if reached else "missed"
    return {
        "point": point,
        "model": model,
        "what": what,
        "wanted": wanted,
        "found": found,
        "verdict": verdict,
    }


def _latency_rows(report: LatencyReport, scores: Mapping[str, float]) -> list[dict[str, Any]]:
    return [
        {
            "model": timed.name,
            "ms": timed.latency_ms.median,
            "speed": round(timed.paired_speedup.median, 2),
            "p10..p90": f"{timed.paired_speedup.p10:.2f}..{timed.paired_speedup.p90:.2f}",
            "MB": round(timed.size_bytes / 1e6, 2),
            "score": round(scores[timed.name], 2),
        }
        for timed in report.models
    ]


if __name__ == "__main__":
    sys.exit(main())
