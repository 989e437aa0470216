"""What outliers in activations cost, and what brings it back: published tables, in shape, on real data.

Table A follows Bondarenko et al., 2021, arXiv:2109.12948, on MiniLM (STS benchmark, dev, Spearman's rank
correlation) and on a BERT classifier (SST-2, dev, accuracy; models/train_sst2.py makes it). Table B follows
Nagel et al., 2021, arXiv:2106.08295, on networks of convolutions. Rows are pipelines; those of table A
quantize every activation, with one scale for each weight, unless they say otherwise. Table C follows Nagel
et al., 2019, arXiv:1906.04721: the weights of a text detector in int8, without data. The last table holds
what is wanted; exits with 1 if something is missed.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np
from check_models import text_pages
from measuring import REPOSITORY, parser, real_tasks, show_tables
from numpy.typing import NDArray
from rich.console import Console

from onnxq.calibration.data import input_specs, open_feeds
from onnxq.comparison import CompileOptions
from onnxq.compile import compile_model
from onnxq.digits import load_digits_split
from onnxq.errors import UnknownPassError
from onnxq.ir.store import load_model, save_model
from onnxq.ir.text import parse
from onnxq.recipe import load_recipe
from onnxq.runtime.session import open_session

Feeds = dict[str, NDArray[Any]]
Results = Sequence[NDArray[np.floating[Any]]]

TIDY = (
    "remove-initializer-inputs, inline-functions, lift-constants, convert-opset{minimum=21}, infer-shapes,"
    "fold-shapes, fold-constants, infer-shapes, widen-float16, normalize-gemm,"
    "fuse-layer-norm, fuse-gelu, remove-dead"
)
WEIGHTS = "encode-weights{granularity=tensor}, encode-embeddings"
BY_CHANNEL, CHANNELWISE = "encode-weights, encode-embeddings", "weights by channel"
ALL = "encode-activations{scope=all-tensors, method=min-max}"
LAYERS = "encode-activations{scope=gemm-io, method=min-max}"
REALISE = "tie-encodings, encode-biases, insert-qdq, remove-dead"
FP32, W8A8 = "fp32", "W8A8"
TEXT_THRESHOLD = 0.3
"""From this probability on, the detector's authors take a pixel for text."""

TEXT_ROWS = {
    FP32: "",
    W8A8: f"{WEIGHTS}, {ALL}, {REALISE}",
    "W8A32": f"{WEIGHTS}, insert-qdq, remove-dead",
    "W32A8": f"{ALL}, {REALISE}",
    "W8A8, mixed precision": f"{WEIGHTS}, {ALL}, mixed-precision{{levels=16}}, {REALISE}",
    **{
        f"W8A8, PEG, K = {count}{said}": f"{WEIGHTS}, {ALL},"
        f"group-embeddings{{mode=axis, groups={count}, order={order}}}, {REALISE}"
        for count in (3, 6, 12)
        for said, order in (("", "index"), (", permuted", "range"))
    },
    **{
        f"W8A8, {CHANNELWISE}{place}{said}": f"{passes} {BY_CHANNEL}, {scope}, {REALISE}"
        for place, scope in (("", ALL), (", at layers", LAYERS))
        for said, passes in (("", ""), (", SmoothQuant", "smooth,"), (", OS+", "shift-and-scale,"))
    },
}
"""Table A: each behind TIDY. SmoothQuant and OS+ weigh outliers against weights with a scale for each
channel; at layers, only what linear layers read is quantized, as on CPUs."""

CONV = "encode-activations{method=min-max, images=mse, residuals=true}, tie-encodings"
PLAIN = f"{CONV}, encode-biases, insert-qdq, remove-dead"
CORRECTED = f"{CONV}, correct-bias{{method=empirical}}, encode-biases, insert-qdq, remove-dead"
TENSOR, CHANNEL = "encode-weights{granularity=tensor}", "encode-weights"
EQUALIZED = f"relax-clips, equalize-layers, absorb-bias, {TENSOR}"
CONV_ROWS = {
    FP32: "",
    "per channel": f"{CHANNEL}, {PLAIN}",
    "per channel, BC": f"{CHANNEL}, {CORRECTED}",
    "per tensor": f"{TENSOR}, {PLAIN}",
    "per tensor, BC": f"{TENSOR}, {CORRECTED}",
    "per tensor, CLE": f"{EQUALIZED}, {PLAIN}",
    "per tensor, CLE, BC": f"{EQUALIZED}, {CORRECTED}",
}
"""Table B: CLE is cross-layer equalization with bias absorption, BC empirical bias correction."""


DATA_FREE = (
    "relax-clips{always=true}, assume-batch-norms{reach=3}, fold-batch-norm, equalize-layers,"
    f"absorb-bias{{method=assumed}}, {TENSOR}"
)
WEIGHT_ROWS = {
    FP32: "",
    **{
        f"{said}{how}": f"{start} fold-batch-norm, {weights}, {correct} insert-qdq, remove-dead"
        for said, weights in (("per channel", CHANNEL), ("per tensor", TENSOR))
        for how, start, correct in (
            ("", "", ""),
            (", BC assumed", "assume-batch-norms,", "correct-bias{method=assumed},"),
            (", BC measured", "", "correct-bias,"),
        )
    },
    **{
        f"per tensor, CLE{how}": f"{DATA_FREE}, {correct} insert-qdq, remove-dead"
        for how, correct in (("", ""), (", BC assumed", "correct-bias{method=assumed},"))
    },
}
"""Table C: BC is analytic bias correction, by statistics of the BatchNormalizations or by data; CLE is
cross-layer equalization with bias absorption, both without data."""


@dataclass(frozen=True)
class Subject:
    """A model with what it is calibrated on and judged by.

    Args:
        name: What the tables call it.
        model: Its file.
        calibration: Feeds to measure ranges on.
        held_out: Feeds to judge it on.
        score: From the results on ``held_out`` to percent.

    """

    name: str
    model: Path
    calibration: Sequence[Feeds]
    held_out: Sequence[Feeds]
    score: Callable[[Results], float]


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--sst2", type=Path, help="the classifier that models/train_sst2.py wrote")
    options.add_argument("--limit", type=int, help="use so many held-out samples of each task at most")
    options.add_argument("--only", help="models whose name holds this")
    args = options.parse_args()
    tasks = real_tasks(args.assets)
    if tasks is None:
        print("needs the evaluation data among the assets", file=sys.stderr)
        return 2
    tables: dict[str, list[dict[str, Any]]] = {}
    with TemporaryDirectory() as folder:
        for rows, subjects in (
            (TEXT_ROWS, _texts(tasks, args.minilm, args.sst2, args.limit)),
            (CONV_ROWS, _images(tasks, Path(folder), args.limit)),
            (WEIGHT_ROWS, _pages(args.assets)),
        ):
            for subject in subjects:
                if args.only is None or args.only in subject.name:
                    tables[subject.name] = list(_measure(subject, rows, Path(folder)))
    tables["Wanted"] = [row for name, rows in tables.items() for row in _verdicts(name, rows)]
    notes = [] if args.sst2 else ["No classifier was given: --sst2."]
    show_tables("What outliers cost, and what brings it back", tables, notes, as_json=args.json)
    return int(any(row["verdict"] == "missed" for row in tables["Wanted"]))


def _texts(tasks: ModuleType, minilm: Path | None, sst2: Path | None, limit: int | None) -> Iterator[Subject]:
    if minilm is not None:
        task = tasks.load("stsb", limit=limit)
        title = f"A. MiniLM, STS benchmark dev, {len(task.labels)} pairs: Spearman x 100"
        yield Subject(title, minilm, task.calibration[:16], task.batches, _task_score(task))
    if sst2 is not None:
        folder = tasks.SHARED / "data" / "text" / "sst2"
        train, dev = (_sentences(folder / f"{part}.tsv") for part in ("train", "dev"))
        texts, labels = dev[0][:limit], np.array(dev[1][:limit])
        title = f"A. BERT classifier, SST-2 dev, {len(texts)} sentences: accuracy, %"
        feeds = [list(_batches(tasks, part, 8)) for part in (train[0][:128], texts)]
        yield Subject(title, sst2, *feeds, lambda results: _accuracy(results, labels))


def _sentences(path: Path) -> tuple[list[str], list[int]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [row["sentence"].strip() for row in rows], [int(row["label"]) for row in rows]


def _batches(tasks: ModuleType, texts: Sequence[str], size: int) -> Iterator[Feeds]:
    for start in range(0, len(texts), size):
        yield tasks.minilm_feeds(list(texts[start : start + size]))


def _images(tasks: ModuleType, folder: Path, limit: int | None) -> Iterator[Subject]:
    for name, title in (("cifar10_resnet20", "resnet20, CIFAR-10"), ("imagenet", "squeezenet, photographs")):
        task = tasks.load(name, limit=limit)
        shown = f"B. {title}, {len(task.labels)} images: top-1, %"
        yield Subject(shown, task.model, task.calibration, task.batches, _task_score(task))
    split, model = load_digits_split(), folder / "digits_depthwise.onnx"
    text = (REPOSITORY / "models" / "digits_depthwise.onnxtxt").read_text(encoding="utf-8")
    save_model(parse(text), model)
    calibration = [{"image": part} for part in np.split(split.calibration_images, 8)]
    title = f"B. depthwise network, digits, {len(split.test_labels)} images: top-1, %"
    held_out = [{"image": split.test_images}]
    yield Subject(title, model, calibration, held_out, lambda results: _accuracy(results, split.test_labels))


def _pages(assets: Path) -> Iterator[Subject]:
    model, pages = assets / "models" / "ppocrv2_det.onnx", text_pages(assets)
    exact = [result > TEXT_THRESHOLD for result in _results(model, pages[1::2])]

    def overlap(results: Results) -> float:
        """Return which part of the text found by either of both models is found by both, in percent."""
        found = [result > TEXT_THRESHOLD for result in results]
        both, either = (
            sum(int(join(a, b).sum()) for a, b in zip(exact, found, strict=True))
            for join in (np.logical_and, np.logical_or)
        )
        return 100 * both / either

    title = f"C. text detector, {len(exact)} pages: overlap of the text found with fp32's, %"
    yield Subject(title, model, pages[::2], pages[1::2], overlap)


def _task_score(task: Any) -> Callable[[Results], float]:
    return lambda results: 100 * float(task.score([[one] for one in results], task.labels))


def _accuracy(results: Results, labels: NDArray[Any]) -> float:
    return 100 * float((np.concatenate(list(results)).argmax(axis=1) == labels).mean())


def _measure(subject: Subject, rows: Mapping[str, str], folder: Path) -> Iterator[dict[str, Any]]:
    """Yield a row for each pipeline; the first is the model as it is."""
    exact: Results = []
    for name, pipeline in rows.items():
        Console(stderr=True).print(f"[dim]{subject.name}: {name}")
        path = folder / "built.onnx"
        try:
            results = _results(_built(subject, pipeline, path), subject.held_out)
        except UnknownPassError as error:
            yield {"row": name, "score": None, "SQNR dB": None, "remark": str(error.message)}
            continue
        exact = exact or results
        same = _agreement(exact, results) if rows is CONV_ROWS else None
        yield {
            "row": name,
            "score": round(subject.score(results), 2),
            "SQNR dB": round(_sqnr(exact, results), 1),
        } | ({} if same is None else {"agree %": round(same, 2)})


def _built(subject: Subject, pipeline: str, path: Path) -> Path:
    if not pipeline:
        return subject.model
    recipe = load_recipe("all-tensors").model_copy(update={"pipeline": f"{TIDY}, {pipeline}"})
    specs = input_specs(load_model(subject.model).model)
    wanted = {spec.name for spec in specs}
    feeds = [{key: array for key, array in one.items() if key in wanted} for one in subject.calibration]
    options = CompileOptions(validate=False, bench=False)
    data = open_feeds("feeds", lambda: feeds, specs)
    return compile_model(subject.model, path, recipe=recipe, data=data, options=options).output


def _results(model: Path, feeds: Sequence[Feeds]) -> list[NDArray[np.floating[Any]]]:
    session = open_session(model)
    wanted = {spec.name for spec in session.inputs}
    return [
        session.run({key: array for key, array in one.items() if key in wanted})[session.output_names[0]]
        for one in feeds
    ]


def _sqnr(exact: Results, results: Results) -> float:
    noise = sum(float(np.square(a - b, dtype=np.float64).sum()) for a, b in zip(exact, results, strict=True))
    signal = sum(float(np.square(a, dtype=np.float64).sum()) for a in exact)
    return 10 * float(np.log10(signal / noise)) if noise else float("inf")


def _agreement(exact: Results, results: Results) -> float:
    pairs = zip(exact, results, strict=True)
    rows = [(a.reshape(len(a), -1).argmax(1) == b.reshape(len(b), -1).argmax(1)) for a, b in pairs]
    return 100 * float(np.concatenate(rows).mean())


def _verdicts(name: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield what is wanted of one table: how many points of the score a row lies below another."""
    scores = {row["row"]: row["score"] for row in rows}
    wanted = WANTED_DEPTHWISE if "depthwise" in name else WANTED[name[0]]
    for base, other, at_least, at_most in wanted:
        if scores.get(base) is None or scores.get(other) is None:
            found, reached = "not measured", False
        else:
            lost = scores[base] - scores[other]
            found, reached = f"{lost:.2f}", at_least <= lost <= at_most
        bounds = f">= {at_least:g}" if at_most == np.inf else f"<= {at_most:g}"
        verdict = "ok" if reached else "missed"
        yield {
            "model": name.partition(",")[0],
            "points lost": f"{base} -> {other}",
            "wanted": bounds,
            "found": found,
            "verdict": verdict,
        }


WANTED_TEXT = (
    (FP32, W8A8, 1.0, np.inf),
    (FP32, "W8A32", -np.inf, 0.5),
    ("W8A8", "W32A8", -np.inf, 1.0),
    (FP32, "W8A8, mixed precision", -np.inf, 1.0),
    (FP32, "W8A8, PEG, K = 6, permuted", -np.inf, 1.0),
    ("W8A8, PEG, K = 6, permuted", "W8A8, PEG, K = 6", 0.0, np.inf),
    (FP32, f"W8A8, {CHANNELWISE}, at layers, OS+", -np.inf, 1.0),
)
"""From one row to another, at least and at most so many points are lost."""

WANTED_CONV = (("per channel, BC", "per tensor, CLE, BC", -np.inf, 1.0),)
WANTED_WEIGHTS = (("per channel, BC measured", "per channel, BC assumed", -np.inf, 1.0),)
WANTED = {"A": WANTED_TEXT, "B": WANTED_CONV, "C": WANTED_WEIGHTS}
WANTED_DEPTHWISE = ((FP32, "per tensor", 50.0, np.inf), (FP32, "per tensor, CLE, BC", -np.inf, 1.0))


if __name__ == "__main__":
    sys.exit(main())
