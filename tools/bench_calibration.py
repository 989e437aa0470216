"""Time and memory of calibration on MiniLM: onnxq against plain inference and onnxruntime's calibrators.

Samples are stretches of 128 tokens of the STS benchmark's sentences. onnxq measures every statistic it has at
the inputs of all linear layers; onnxruntime's calibrators measure the MatMuls. Each measurement is a fresh
process that opens the model and runs the data in batches of 8. Further rows: 1024 samples; single sentences
padded to 128 tokens; and these padded to the longest of each batch. Times are medians of interleaved rounds;
what is slow runs once. Exits with 1 if onnxq takes more than 4 times plain inference or 700 MB, or if 1024
samples take 5 % more memory than 128.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from measuring import parser, real_tasks, show
from numpy.typing import NDArray

from onnxq.analysis.layers import linear_layers
from onnxq.calibration.collect import collect
from onnxq.ir.module import name_of
from onnxq.ir.store import load_model
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.quant.facts import Need
from onnxq.quant.statistics import STATISTICS
from onnxq.runtime.footprint import peak_memory
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session
from onnxq.target import find_target

VALUES = 24
"""Distinct inputs of MiniLM's 36 linear layers: queries, keys and values read the same one."""

TOKENS, BATCH, THREADS = 128, 8, 2
MOST_TIMES, MOST_MB, MOST_GROWTH = 4.0, 700, 1.05
PEERS = ("MinMax", "Percentile", "Entropy")

Feeds = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Batch:
    """A batch of samples."""

    feeds: Feeds
    rows: int


@dataclass(frozen=True)
class Samples:
    """Token ids in a file; ``ragged`` cuts each batch to its longest sample."""

    feeds: Mapping[str, NDArray[Any]]
    ragged: bool

    def batches(self) -> Iterator[Batch]:
        """Yield batches of ``BATCH`` samples."""
        for start in range(0, len(self.feeds["input_ids"]), BATCH):
            feeds = {name: array[start : start + BATCH] for name, array in self.feeds.items()}
            length = int(feeds["attention_mask"].sum(axis=1).max()) if self.ragged else TOKENS
            yield Batch({name: array[:, :length] for name, array in feeds.items()}, BATCH)


def plain(model: Path, samples: Samples) -> None:
    """Run the data and keep nothing."""
    session = open_session(model, Run(threads=THREADS))
    for batch in samples.batches():
        session.run(batch.feeds)


def ours(model: Path, samples: Samples) -> None:
    """Measure every statistic at the inputs of all linear layers."""
    module = load_model(model)
    PassManager(parse_pipeline("lift-constants,infer-shapes"), find_target("cpu")).run(module)
    values = {name_of(layer.activation) for layer in linear_layers(module)}
    if len(values) != VALUES:
        raise SystemExit(f"found {len(values)} inputs of linear layers, not {VALUES}: this is another model")
    everything = frozenset(STATISTICS.values())
    collect(module.model, [Need(name, everything) for name in values], samples, Run(threads=THREADS))


def peer(method: str) -> Callable[[Path, Samples], None]:
    """Return the measurement of one of onnxruntime's calibrators."""

    def run(model: Path, samples: Samples) -> None:
        from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
        from onnxruntime.quantization.calibrate import create_calibrator

        class Reader(CalibrationDataReader):
            def __init__(self) -> None:
                self.batches = samples.batches()

            def get_next(self) -> Feeds | None:
                batch = next(self.batches, None)
                return None if batch is None else batch.feeds

        with tempfile.TemporaryDirectory() as folder:
            calibrator = create_calibrator(
                model, ["MatMul"], f"{folder}/augmented.onnx", CalibrationMethod[method]
            )
            calibrator.collect_data(Reader())
            calibrator.compute_data()

    return run


JOBS: dict[str, Callable[[Path, Samples], None]] = {
    "plain": plain,
    "onnxq": ours,
    **{name: peer(name) for name in PEERS},
}


def child(job: str, model: Path, data: Path, ragged: bool) -> int:
    """Do one measurement in this process and print its seconds and peak memory."""
    with np.load(data) as arrays:
        samples = Samples(dict(arrays), ragged)
    start = time.perf_counter()
    JOBS[job](model, samples)
    print(json.dumps({"seconds": time.perf_counter() - start, "mb": peak_memory() / 2**20}))
    return 0


@dataclass(frozen=True)
class Case:
    """One row: a job on some data."""

    job: str
    data: str
    ragged: bool = False

    @property
    def label(self) -> str:
        """What the table calls it."""
        names = {"plain": "plain inference", "onnxq": "onnxq, all statistics"}
        return names.get(self.job, f"onnxruntime {self.job}")

    def measure(self, model: Path, folder: Path) -> dict[str, float]:
        """Run it in a fresh process."""
        command = [sys.executable, __file__, "--child", self.job, "--minilm", str(model)]
        command += ["--data", str(folder / f"{self.data}.npz")] + ["--ragged"] * self.ragged
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return result


ROUNDS = [
    Case(job, data, ragged)
    for data, ragged in (("full", False), ("padded", False), ("padded", True))
    for job in ("plain", "onnxq")
]
ONCE = [Case("plain", "many"), Case("onnxq", "many"), *(Case(name, "full") for name in PEERS)]


def measure_all(model: Path, folder: Path, rounds: int) -> dict[Case, dict[str, float]]:
    """Return the median seconds and the largest memory of every case."""
    runs: dict[Case, list[dict[str, float]]] = {case: [] for case in (*ROUNDS, *ONCE)}
    for number in range(rounds):
        for case in (*ROUNDS, *(ONCE if number == 0 else ())):
            print(f"round {number + 1} of {rounds}: {case.label}, {case.data}", file=sys.stderr)
            runs[case].append(case.measure(model, folder))
    return {
        case: {
            "seconds": statistics.median(run["seconds"] for run in done),
            "mb": max(run["mb"] for run in done),
        }
        for case, done in runs.items()
    }


def rows_of(measured: Mapping[Case, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Return the table: each case with its ratio to plain inference over the same data."""
    titles = {
        "full": "128 x 128 tokens",
        "many": "1024 x 128 tokens",
        "padded": "128 sentences padded to 128",
    }
    rows = []
    for case, result in measured.items():
        base = measured[Case("plain", case.data, case.ragged)]["seconds"]
        rows.append(
            {
                "what": case.label,
                "data": "128 sentences, ragged" if case.ragged else titles[case.data],
                "seconds": round(result["seconds"], 2),
                "x plain": round(result["seconds"] / base, 2),
                "peak MB": round(result["mb"]),
            }
        )
    return rows


def write_data(tasks: ModuleType, folder: Path) -> None:
    """Write the three sets of token ids: full stretches of text, many of them, and single sentences."""
    lines = (
        (tasks.SHARED / "data" / "text" / "stsb" / "sts-train.csv").read_text(encoding="utf-8").splitlines()
    )
    sentences = [text for line in lines for text in line.split("\t")[5:7]]
    feeds = tasks.minilm_feeds(sentences, pad_to=TOKENS)
    np.savez(folder / "padded.npz", **{name: array[:TOKENS] for name, array in feeds.items()})
    ids = feeds["input_ids"][feeds["attention_mask"] > 0]
    for name, count in (("full", 128), ("many", 1024)):
        stretches = ids[: count * TOKENS].reshape(count, TOKENS)
        whole = {"input_ids": stretches, "attention_mask": np.ones_like(stretches)}
        np.savez(folder / f"{name}.npz", **whole, token_type_ids=np.zeros_like(stretches))


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=3, help="rounds of the interleaved measurements")
    for inner in ("--child", "--data"):
        options.add_argument(inner, help="for the measuring processes")
    options.add_argument("--ragged", action="store_true", help="for the measuring processes")
    args = options.parse_args()
    if args.child:
        return child(args.child, args.minilm, Path(args.data), args.ragged)
    tasks = real_tasks(args.assets)
    if tasks is None or args.minilm is None:
        print(
            "needs the STS benchmark among the assets, and all-MiniLM-L6-v2 as ONNX: --minilm FILE",
            file=sys.stderr,
        )
        return 2
    with tempfile.TemporaryDirectory() as folder:
        write_data(tasks, Path(folder))
        measured = measure_all(args.minilm, Path(folder), args.rounds)
    full, many = measured[Case("onnxq", "full")], measured[Case("onnxq", "many")]
    times, growth = full["seconds"] / measured[Case("plain", "full")]["seconds"], many["mb"] / full["mb"]
    verdict = (
        f"onnxq: {times:.2f}x plain inference (at most {MOST_TIMES:g}), {full['mb']:.0f} MB "
        f"(at most {MOST_MB}), "
        f"{growth - 1:+.1%} memory with 8 times the samples (at most {MOST_GROWTH - 1:.0%})."
    )
    title = f"Calibration of all-MiniLM-L6-v2: {THREADS} threads, batches of {BATCH}"
    show(title, rows_of(measured), [verdict], as_json=args.json)
    return int(times > MOST_TIMES or full["mb"] > MOST_MB or growth > MOST_GROWTH)


if __name__ == "__main__":
    sys.exit(main())
