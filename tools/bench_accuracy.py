"""What each way to tame outliers brings all-MiniLM-L6-v2 in int8, and what it costs, in one run.

The first table is static int8: the recipe cpu, as it decides for itself, the same without any method, each
method added to that, and combinations. The recipe is what is judged. The second table is 4-bit
weights in blocks of 32 with activations in 8 bits, as MatMulNBits runs them at accuracy level 4. Pooled
cosine: embeddings of 64 sentences that nothing was calibrated on, against fp32's. Spearman: STS benchmark,
dev. Speed: one thread, batch 1, 128 tokens, interleaved: against fp32, and against the recipe without any
method, both medians within rounds. The third table judges the recipe on text that took no part in any
choice, calibrated on several draws of sentences: means and standard deviations over the draws, and the
smallest cosine of all. The last table holds what is wanted; exits with 1 if something is missed.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np
import peers
from confirmation import confirm, draws, texts
from cpu_cases import Feeds, Source
from measuring import cosines, embeddings, parser, real_tasks, show_tables
from rich.console import Console

from onnxq.calibration.data import input_specs, open_feeds
from onnxq.comparison import CompileOptions
from onnxq.compile import compile_model
from onnxq.errors import PipelineError
from onnxq.ir.store import load_model, model_size
from onnxq.recipe import Recipe, load_recipe
from onnxq.runtime.bench import ModelLatency, Timing, bench
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session

RUN = "batch 1, 128 tokens"
FLOAT, DEFAULT, PLAIN, NEAREST = "fp32", "recipe cpu", "no method", "nearest"
DYNAMIC = "quantize_dynamic"
STATIC, BLOCKWISE, CONFIRMED = "Static int8", "4-bit weights in blocks of 32", "Confirmed on other text"
LEAST_COSINE, GOAL_COSINE, MOST_POINTS, LEAST_SPEED = 0.999, 0.9995, 0.1, 0.96
QUICK_PAIRS = 200
OFF = (
    "shift-and-scale{off, kinds=norm+value, shift=false},",
    "round-weights{off},",
    "correct-clipping{off},",
)
"""What the recipe holds for its choices, in whose places methods put theirs."""


@dataclass(frozen=True)
class Method:
    """A recipe with passes added.

    Args:
        name: What the table calls it.
        early: Passes before the weights are encoded.
        weights: What encodes the weights, and passes right behind it.
        late: Passes right behind encode-activations.

    """

    name: str
    early: str = ""
    weights: str = "encode-weights"
    late: str = ""


CLIP, NORMS = "correct-clipping", "smooth{kinds=norm+value}"
INT8 = (
    Method(PLAIN),
    Method("smooth", early="smooth"),
    Method("shift-and-scale", early="shift-and-scale"),
    Method("scale only", early="shift-and-scale{shift=false}"),
    Method("group-embeddings", early="group-embeddings"),
    Method("round-weights", weights="encode-weights, round-weights"),
    Method("mse weights", weights="encode-weights{method=mse}"),
    Method("correct-clipping", late=CLIP),
    Method("clip, gain 1", late="correct-clipping{gain=1}"),
    Method("smooth + clip", early="smooth", late=CLIP),
    Method("smooth norms + clip", early=NORMS, late=CLIP),
    Method("shift norms + clip", early="shift-and-scale{kinds=norm+value}", late=CLIP),
    Method("scale norms + clip", early="shift-and-scale{kinds=norm+value, shift=false}", late=CLIP),
    Method("clip + round", weights="encode-weights, round-weights", late=CLIP),
    Method("smooth norms + clip + round", NORMS, "encode-weights, round-weights", CLIP),
)
BLOCKS = "encode-weight-blocks"
INT4 = (
    Method(NEAREST, weights=BLOCKS),
    Method("symmetric", weights=f"{BLOCKS}{{symmetric=true}}"),
    Method("mse", weights=f"{BLOCKS}{{method=mse}}"),
    Method("round", weights=f"{BLOCKS}, round-weights"),
    Method("mse + round", weights=f"{BLOCKS}{{method=mse}}, round-weights"),
    Method("smooth", early="smooth", weights=BLOCKS),
    Method("smooth + round", early="smooth", weights=f"{BLOCKS}, round-weights"),
    Method("shift + round", early="shift-and-scale", weights=f"{BLOCKS}, round-weights"),
)


def main() -> int:
    args = _arguments()
    logging.disable(logging.WARNING)  # onnxruntime.quantization says a lot
    tasks = real_tasks(args.assets)
    if tasks is None or args.minilm is None:
        print(
            "needs the STS benchmark among the assets and all-MiniLM-L6-v2 as ONNX: --minilm FILE",
            file=sys.stderr,
        )
        return 2
    with TemporaryDirectory() as folder:
        run = _Run(args.minilm, Path(folder), tasks, args)
        tables = run.tables(args.tables)
    wanted = [verdict for name, rows in tables.items() for verdict in JUDGED[name](rows)]
    tables["Wanted"] = wanted
    show_tables("Accuracy of all-MiniLM-L6-v2", tables, run.notes, as_json=args.json)
    return int(any(row["verdict"] == "missed" for row in wanted))


def _arguments() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("--only", default="", help="methods whose name holds this, besides the plain ones")
    options.add_argument("--tables", default="", help="tables whose name holds this")
    options.add_argument("--quick", action="store_true", help="fewer rounds, sentences, pairs and draws")
    return options.parse_args()


class _Run:
    """Builds, compares and times all artefacts."""

    def __init__(self, model: Path, folder: Path, tasks: ModuleType, args: argparse.Namespace) -> None:
        self.model, self.folder, self.tasks, self.args = model, folder, tasks, args
        cases = dict(Source(tasks, folder, [model], quick=False).cases())
        self.case = next(make() for name, make in cases.items() if name.startswith("MiniLM"))
        self.task = tasks.load("stsb", limit=QUICK_PAIRS if args.quick else None)
        self.notes: list[str] = []
        self.reference = embeddings(model, self.case.held_out)

    def tables(self, only: str) -> dict[str, list[dict[str, Any]]]:
        """Return the tables whose name holds ``only``."""
        made = {STATIC: self.int8, BLOCKWISE: self.int4, CONFIRMED: self.confirmed}
        return {name: make() for name, make in made.items() if only in name}

    def int8(self) -> list[dict[str, Any]]:
        """Return the rows of static int8, onnxruntime's dynamic quantization among them."""
        models = self._built("cpu", INT8)
        Console(stderr=True).print(f"[dim]build {DEFAULT}")
        models[DEFAULT] = self.folder / "default.onnx"
        self._compile(load_recipe("cpu"), models[DEFAULT], self.case.calibration)
        models[DYNAMIC] = self.folder / "dynamic.onnx"
        peers.quantize_dynamic(self.model, models[DYNAMIC])
        return self._rows(models, PLAIN)

    def int4(self) -> list[dict[str, Any]]:
        """Return the rows of 4-bit weights; the embeddings are in int8, as in the other table."""
        return self._rows(self._built("cpu-size", INT4), NEAREST)

    def confirmed(self) -> list[dict[str, Any]]:
        """Return the rows on other text."""
        models: dict[str, list[Path]] = {FLOAT: [self.model], PLAIN: [], DEFAULT: []}
        for number, calibration in enumerate(draws(self.tasks, quick=self.args.quick)):
            for name, recipe in ((PLAIN, _recipe("cpu", Method(PLAIN))), (DEFAULT, load_recipe("cpu"))):
                Console(stderr=True).print(f"[dim]build {name}, draw {number}")
                models[name].append(self.folder / f"{name}-{number}.onnx")
                self._compile(recipe, models[name][-1], calibration)
        dynamic = self.folder / "confirmed-dynamic.onnx"
        peers.quantize_dynamic(self.model, dynamic)
        return list(confirm(models | {DYNAMIC: [dynamic]}, list(texts(self.tasks, quick=self.args.quick))))

    def _built(self, base: str, methods: Sequence[Method]) -> dict[str, Path]:
        models = {FLOAT: self.model}
        for method in methods:
            if self.args.only not in method.name and method.name not in (PLAIN, NEAREST):
                continue
            Console(stderr=True).print(f"[dim]build {base}: {method.name}")
            path = self.folder / f"{base}-{len(models)}.onnx"
            try:
                self._compile(_recipe(base, method), path, self.case.calibration)
                models[method.name] = path
            except PipelineError as error:
                self.notes.append(f"{method.name}: {error}")
        return models

    def _compile(self, recipe: Recipe, path: Path, calibration: Sequence[Feeds]) -> None:
        specs = input_specs(load_model(self.model).model)
        data = open_feeds("STS benchmark, train", lambda: calibration, specs)
        quiet = CompileOptions(validate=False, bench=False)
        compile_model(self.model, path, recipe=recipe, data=data, options=quiet)

    def _rows(self, models: Mapping[str, Path], base: str) -> list[dict[str, Any]]:
        timing = Timing(rounds=7, seconds=1.0) if self.args.quick else Timing()
        report = bench(models, self.case.runs[RUN], Run(threads=1), timing)
        timed = {one.name: one for one in report.models}
        spearman = {name: self._spearman(path) for name, path in models.items()}
        return [
            {
                "method": name,
                **cosines(self.reference, embeddings(path, self.case.held_out)),
                "Spearman": round(spearman[name], 4),
                "points": round(100 * (spearman[name] - spearman[FLOAT]), 2),
                "over fp32": _ratio(timed[FLOAT], timed[name]),
                f"over {base}": _ratio(timed[base], timed[name]),
                "MB": round(model_size(path) / 1e6, 1),
            }
            for name, path in models.items()
        ]

    def _spearman(self, model: Path) -> float:
        session = open_session(model)
        outputs = [[session.run(feeds)[session.output_names[0]]] for feeds in self.task.batches]
        return float(self.task.score(outputs, self.task.labels))


def _recipe(base: str, method: Method) -> Recipe:
    """Return a shipped recipe with a method's passes in their places."""
    recipe = load_recipe(base)
    old = BLOCKS if base == "cpu-size" else "encode-weights"
    text = recipe.pipeline.replace("encode-embeddings{block=32}", "encode-embeddings")
    for placeholder in OFF:
        text = text.replace(placeholder, "")
    early = f"{method.early}, " if method.early else ""
    text = text.replace(f"{old},", f"{early}{method.weights},", 1)
    if method.late:
        text = text.replace("tie-encodings,", f"{method.late}, tie-encodings,")
    return recipe.model_copy(update={"pipeline": text, "choices": {}})


def _ratio(base: ModelLatency, timed: ModelLatency) -> float:
    """Return how many times faster the second is: the median over the rounds."""
    return round(float(np.median(np.array(base.rounds_ms) / np.array(timed.rounds_ms))), 3)


def _int8_verdicts(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return _verdicts(next(row for row in rows if row["method"] == DEFAULT))


def _verdicts(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    cosine, points, speed = row["cosine mean"], abs(row["points"]), row[f"over {PLAIN}"]
    parts = (
        (f"cosine mean (goal {GOAL_COSINE})", f">= {LEAST_COSINE}", cosine, cosine >= LEAST_COSINE),
        ("Spearman, points from fp32", f"<= {MOST_POINTS}", points, points <= MOST_POINTS),
        (f"speed over {PLAIN}", f">= {LEAST_SPEED}", speed, speed >= LEAST_SPEED),
    )
    return [_verdict(row, *part) for part in parts]


def _int4_verdicts(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Compare the best combination with rounding to nearest."""
    nearest = next(row["cosine mean"] for row in rows if row["method"] == NEAREST)
    others = [row for row in rows if row["method"] not in (FLOAT, NEAREST)]
    if not others:
        return []
    best = max(others, key=lambda row: float(row["cosine mean"]))
    found = best["cosine mean"]
    return [_verdict(best, "4 bits: cosine mean, best", f"> {nearest} ({NEAREST})", found, found > nearest)]


def _confirmed_verdicts(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    verdicts = []
    for row in rows:
        if row["method"] == DEFAULT:
            found = row["cosine mean"]
            what = f"cosine mean, {row['text']}"
            verdicts.append(_verdict(row, what, f">= {LEAST_COSINE}", found, found >= LEAST_COSINE))
        if row["method"] == DEFAULT and "points" in row:
            found, what = abs(row["points"]), f"Spearman, points from fp32, {row['text']}"
            verdicts.append(_verdict(row, what, f"<= {MOST_POINTS}", found, found <= MOST_POINTS))
    return verdicts


def _verdict(row: Mapping[str, Any], what: str, wanted: str, found: float, reached: bool) -> dict[str, Any]:
    verdict = "ok" if reached else "missed"
    return {"method": row["method"], "what": what, "wanted": wanted, "found": found, "verdict": verdict}


JUDGED = {STATIC: _int8_verdicts, BLOCKWISE: _int4_verdicts, CONFIRMED: _confirmed_verdicts}
"""What is wanted of each table."""


if __name__ == "__main__":
    sys.exit(main())
