"""What outliers in activations cost, and what brings it back: published tables, in shape, on real data.

Table A follows Bondarenko et al., 2021, arXiv:2109.12948, on MiniLM (STS benchmark, dev, Spearman's rank
correlation) and on a BERT classifier (SST-2, dev, accuracy; models/train_sst2.py makes it). Table B follows
Nagel et al., 2021, arXiv:2106.08295, on networks of convolutions. Rows are pipelines; those of table A
quantize every activation, with one scale for each weight, unless they say otherwise; as in the paper, the
ranges of weights are those of the least squared error. Table C follows Nagel et al., 2019, arXiv:1906.04721:
the weights of a text detector in int8, without data. SQNR is that of what is judged: pooled embeddings,
logits, or what is computed for each pixel. The last table holds what is wanted; exits with 1 if something is
missed.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, Literal

import numpy as np
from check_models import text_pages
from measuring import REPOSITORY, parser, real_tasks, show_tables
from numpy.typing import NDArray
from rich.console import Console

from onnxq.calibration.data import Dataset, InputSpec, input_specs, open_feeds
from onnxq.calibration.table import CalibrationTable
from onnxq.comparison import CompileOptions
from onnxq.compile import calibrate_model, compile_model
from onnxq.digits import load_digits_split
from onnxq.errors import UnknownPassError
from onnxq.ir.store import load_model, save_model
from onnxq.ir.text import parse
from onnxq.recipe import Recipe, load_recipe
from onnxq.runtime.session import ValueSpec, open_session

Feeds = dict[str, NDArray[Any]]
Rows = NDArray[np.floating[Any]]

CALIBRATION, BATCH = 128, 32
"""Sentences to calibrate on, and how many are judged at a time."""

TIDY = (
    "remove-initializer-inputs, inline-functions, lift-constants, convert-opset{minimum=21}, infer-shapes,"
    "fold-shapes, fold-constants, infer-shapes, widen-float16, normalize-gemm,"
    "fuse-layer-norm, fuse-gelu, remove-dead"
)
WEIGHTS = "encode-weights{granularity=tensor, method=mse}, encode-embeddings"
BY_CHANNEL, CHANNELWISE = "encode-weights, encode-embeddings", "weights by channel"
ALL = "encode-activations{scope=all-tensors, method=min-max}"
MIXED, GROUPS = "mixed-precision{levels=16}", "group-embeddings{mode=axis}"
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
    "W8A8, mixed precision": f"{WEIGHTS}, {ALL}, {MIXED}, {REALISE}",
    **{
        f"W8A8, PEG, K = {count}{said}": f"{WEIGHTS}, {ALL},"
        f"group-embeddings{{mode=axis, groups={count}, {how}}}, {REALISE}"
        for count in (3, 6, 12)
        for said, how in (
            ("", "order=index"),
            (", permuted", "order=range"),
            (", permuted, fitted", "order=range, sizes=fitted"),
        )
    },
    **{
        f"W8A8, {CHANNELWISE}{place}{said}": f"{passes} {BY_CHANNEL}, {scope}, {REALISE}"
        for place, scope in (("", ALL), (", at layers", LAYERS))
        for said, passes in (("", ""), (", SmoothQuant", "smooth,"), (", OS+", "shift-and-scale,"))
    },
}
"""Table A: each behind TIDY. SmoothQuant and OS+ weigh outliers against weights with a scale for each
channel; at layers, only what linear layers read is quantized, as on CPUs. Fitted groups, which are ours, are
of unequal size."""

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
        order: Which sample each row of the results on ``held_out`` is.
        score: From one row for each sample to percent.
        judged: What a row is: logits, the mean over the tokens, or what is computed for each pixel.
        table: What was measured on ``calibration`` before, if anything.

    """

    name: str
    model: Path
    calibration: Sequence[Feeds]
    held_out: Sequence[Feeds]
    order: NDArray[np.intp]
    score: Callable[[Rows], float]
    judged: Literal["logits", "pooled", "pixels"] = "logits"
    table: CalibrationTable | None = None


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
    folder = tasks.SHARED / "data" / "text"
    if minilm is not None:
        (texts, _), (held_out, grades) = (
            _pairs(folder / "stsb" / f"sts-{part}.csv") for part in ("train", "dev")
        )
        first, second = (half[:limit] for half in held_out)
        title = f"A. MiniLM, STS benchmark dev, {len(first)} pairs: Spearman x 100"
        score = partial(_correlation, tasks=tasks, grades=grades[:limit])
        calibration = list(_batches(tasks, texts[0][:CALIBRATION]))
        sorted_ = _by_length(tasks, first + second)
        yield _calibrated(Subject(title, minilm, calibration, *sorted_, score, "pooled"))
    if sst2 is not None:
        train, dev = (_sentences(folder / "sst2" / f"{part}.tsv") for part in ("train", "dev"))
        texts, labels = dev[0][:limit], np.array(dev[1][:limit])
        title = f"A. BERT classifier, SST-2 dev, {len(texts)} sentences: accuracy, %"
        calibration = list(_batches(tasks, train[0][:CALIBRATION]))
        score = partial(_accuracy, labels=labels)
        yield _calibrated(Subject(title, sst2, calibration, *_by_length(tasks, texts), score))


def _calibrated(subject: Subject) -> Subject:
    """Measure once what most rows of table A need."""
    recipe = _recipe(f"{WEIGHTS}, {ALL}, {MIXED}, {GROUPS}")
    table = calibrate_model(subject.model, _data(subject), recipe=recipe)
    return replace(subject, table=table)


def _pairs(path: Path) -> tuple[tuple[list[str], list[str]], NDArray[Any]]:
    """Return the first sentences, the second ones, and how alike people found them."""
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    first, second = [row[5] for row in rows], [row[6] for row in rows]
    return (first, second), np.array([float(row[4]) for row in rows])


def _sentences(path: Path) -> tuple[list[str], list[int]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [row["sentence"].strip() for row in rows], [int(row["label"]) for row in rows]


def _batches(tasks: ModuleType, texts: Sequence[str]) -> Iterator[Feeds]:
    for start in range(0, len(texts), 8):
        yield tasks.minilm_feeds(list(texts[start : start + 8]))


def _by_length(tasks: ModuleType, texts: Sequence[str]) -> tuple[list[Feeds], NDArray[np.intp]]:
    """Return batches of texts of about the same length, so that hardly any padding is computed."""
    order = np.argsort([len(text) for text in texts], kind="stable")
    parts = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    return [tasks.minilm_feeds([texts[index] for index in part]) for part in parts], order


def _images(tasks: ModuleType, folder: Path, limit: int | None) -> Iterator[Subject]:
    for name, title in (("cifar10_resnet20", "resnet20, CIFAR-10"), ("imagenet", "squeezenet, photographs")):
        task = tasks.load(name, limit=limit)
        shown = f"B. {title}, {len(task.labels)} images: top-1, %"
        yield _classifier(shown, task.model, task.calibration, task.batches, task.labels)
    split, model = load_digits_split(), folder / "digits_depthwise.onnx"
    text = (REPOSITORY / "models" / "digits_depthwise.onnxtxt").read_text(encoding="utf-8")
    save_model(parse(text), model)
    calibration = [{"image": part} for part in np.split(split.calibration_images, 8)]
    title = f"B. depthwise network, digits, {len(split.test_labels)} images: top-1, %"
    yield _classifier(title, model, calibration, [{"image": split.test_images}], split.test_labels)


def _classifier(
    title: str, model: Path, calibration: Sequence[Feeds], held_out: Sequence[Feeds], labels: NDArray[Any]
) -> Subject:
    score = partial(_accuracy, labels=labels)
    return Subject(title, model, calibration, held_out, np.arange(len(labels)), score)


def _pages(assets: Path) -> Iterator[Subject]:
    model, pages = assets / "models" / "ppocrv2_det.onnx", text_pages(assets)
    held_out = pages[1::2]
    title = f"C. text detector, {len(held_out)} pages: overlap of the text found with fp32's, %"
    subject = Subject(
        title, model, pages[::2], held_out, np.arange(len(held_out)), lambda rows: 100.0, "pixels"
    )
    yield replace(subject, score=partial(_overlap, exact=_results(model, subject)))


def _correlation(rows: Rows, tasks: ModuleType, grades: NDArray[Any]) -> float:
    """Return 100 times the rank correlation of the grades with the cosines of both halves."""
    first, second = np.split(rows / np.linalg.norm(rows, axis=1, keepdims=True), 2)
    return 100 * float(tasks.spearman((first * second).sum(axis=1), grades))


def _overlap(rows: Rows, exact: Rows) -> float:
    """Return which part of the text found by either of both models is found by both, in percent."""
    first, second = rows > TEXT_THRESHOLD, exact > TEXT_THRESHOLD
    return 100 * float((first & second).sum() / (first | second).sum())


def _accuracy(rows: Rows, labels: NDArray[Any]) -> float:
    return 100 * float((rows.argmax(axis=1) == labels).mean())


def _measure(subject: Subject, rows: Mapping[str, str], folder: Path) -> Iterator[dict[str, Any]]:
    """Yield a row for each pipeline; the first is the model as it is."""
    exact: Rows | None = None
    for name, pipeline in rows.items():
        Console(stderr=True).print(f"[dim]{subject.name}: {name}")
        path = folder / "built.onnx"
        try:
            results = _results(_built(subject, pipeline, path), subject)
        except UnknownPassError as error:
            yield {"row": name, "score": None, "SQNR dB": None, "remark": str(error.message)}
            continue
        exact = results if exact is None else exact
        yield {
            "row": name,
            "score": round(subject.score(results), 2),
            "SQNR dB": round(_sqnr(exact, results), 1),
        } | ({"agree %": round(_agreement(exact, results), 2)} if subject.judged == "logits" else {})


def _built(subject: Subject, pipeline: str, path: Path) -> Path:
    if not pipeline:
        return subject.model
    options = CompileOptions(validate=False, bench=False)
    return compile_model(
        subject.model,
        path,
        recipe=_recipe(pipeline),
        data=_data(subject),
        table=subject.table,
        options=options,
    ).output


def _recipe(pipeline: str) -> Recipe:
    return load_recipe("all-tensors").model_copy(update={"pipeline": f"{TIDY}, {pipeline}"})


def _data(subject: Subject) -> Dataset:
    specs = input_specs(load_model(subject.model).model)
    feeds = [_wanted(one, specs) for one in subject.calibration]
    return open_feeds("feeds", lambda: feeds, specs)


def _wanted(feeds: Feeds, specs: Sequence[InputSpec | ValueSpec]) -> Feeds:
    names = {spec.name for spec in specs}
    return {key: array for key, array in feeds.items() if key in names}


def _results(model: Path, subject: Subject) -> Rows:
    """Return one row for each sample, in their order."""
    session, parts = open_session(model), []
    for feeds in subject.held_out:
        found = session.run(_wanted(feeds, session.inputs))[session.output_names[0]]
        parts.append(
            _pooled(found, feeds["attention_mask"])
            if subject.judged == "pooled"
            else found.reshape(len(found), -1)
        )
    rows = np.concatenate(parts)
    rows[subject.order] = rows.copy()
    return rows


def _pooled(tokens: Rows, mask: NDArray[Any]) -> Rows:
    """Return the mean over the tokens of each sample, shape (B, D)."""
    weights = mask[..., np.newaxis].astype(tokens.dtype)
    mean: Rows = (tokens * weights).sum(axis=1) / weights.sum(axis=1)
    return mean


def _sqnr(exact: Rows, results: Rows) -> float:
    noise = float(np.square(exact - results, dtype=np.float64).sum())
    signal = float(np.square(exact, dtype=np.float64).sum())
    return 10 * float(np.log10(signal / noise)) if noise else float("inf")


def _agreement(exact: Rows, results: Rows) -> float:
    return 100 * float((exact.argmax(axis=1) == results.argmax(axis=1)).mean())


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
    (FP32, "W8A8, PEG, K = 6, permuted, fitted", -np.inf, 1.0),
    (FP32, f"W8A8, {CHANNELWISE}, at layers, OS+", -np.inf, 1.0),
)
"""From one row to another, at least and at most so many points are lost."""

WANTED_CONV = (("per channel, BC", "per tensor, CLE, BC", -np.inf, 1.0),)
WANTED_WEIGHTS = (("per channel, BC measured", "per channel, BC assumed", -np.inf, 1.0),)
WANTED = {"A": WANTED_TEXT, "B": WANTED_CONV, "C": WANTED_WEIGHTS}
WANTED_DEPTHWISE = ((FP32, "per tensor", 50.0, np.inf), (FP32, "per tensor, CLE, BC", -np.inf, 1.0))


if __name__ == "__main__":
    sys.exit(main())
