"""Text that took no part in any choice, to confirm on it what bench_accuracy.py found.

The shipped recipe was worked out on sentences of the STS benchmark's dev split, and it is calibrated on the
first of the train split. Here it is calibrated on several draws from the first part of the train split, and
judged on its last part, on film reviews (SST-2) and on encyclopaedia articles (WikiText-2).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from measuring import embeddings
from numpy.typing import NDArray

Feeds = dict[str, NDArray[Any]]
Score = Callable[[NDArray[np.float64]], float]

DRAWS, DRAWN = 5, 128
"""How often calibration sentences are drawn, and how many."""

FIRST_PART, LAST_PART = 4000, 5000
"""Pairs of the train split in front of the first may be drawn; those from the second on are judged."""

PAIRS, SENTENCES, PARAGRAPHS = 500, 256, 128
QUICK = 8
"""By how much a quick run divides the numbers above."""


@dataclass(frozen=True)
class Text:
    """Samples to judge an encoder on.

    Args:
        name: What the table calls them.
        feeds: One sample each.
        score: From their embeddings to a rank correlation, where there are grades.

    """

    name: str
    feeds: Sequence[Feeds]
    score: Score | None = None


def texts(tasks: ModuleType, *, quick: bool) -> Iterator[Text]:
    """Yield what is judged."""
    part, folder = QUICK if quick else 1, tasks.SHARED / "data" / "text"
    rows = _train(folder)[LAST_PART : LAST_PART + PAIRS // part]
    sentences = [row[5] for row in rows] + [row[6] for row in rows]
    grades = np.array([float(row[4]) for row in rows])

    def score(found: NDArray[np.float64]) -> float:
        first, second = np.split(found, 2)
        return float(tasks.spearman((first * second).sum(axis=1), grades))

    yield Text("STS benchmark, train, last part", _feeds(tasks, sentences), score)
    yield Text("SST-2, dev", _feeds(tasks, _reviews(folder, SENTENCES // part)))
    yield Text("WikiText-2, validation", _feeds(tasks, _paragraphs(folder, PARAGRAPHS // part)))


def draws(tasks: ModuleType, *, quick: bool) -> list[list[Feeds]]:
    """Return calibration data, several times."""
    sentences = [row[5] for row in _train(tasks.SHARED / "data" / "text")[:FIRST_PART]]
    chosen = [
        np.random.default_rng(seed).permutation(FIRST_PART)[:DRAWN] for seed in range(1 if quick else DRAWS)
    ]
    return [
        [tasks.minilm_feeds([sentences[index] for index in part]) for part in np.split(draw, len(draw) // 8)]
        for draw in chosen
    ]


def confirm(models: Mapping[str, Sequence[Path]], judged: Sequence[Text]) -> Iterator[dict[str, Any]]:
    """Yield a row for each text and method.

    Args:
        models: By method one file for each draw; the first is the float model.
        judged: The texts.

    """
    for text in judged:
        exact: NDArray[np.float64] | None = None
        for method, files in models.items():
            found = [embeddings(file, text.feeds) for file in files]
            exact = found[0] if exact is None else exact
            yield {"text": text.name, "method": method, **_row(text, exact, found)}


def _row(text: Text, exact: NDArray[np.float64], found: Sequence[NDArray[np.float64]]) -> dict[str, Any]:
    each = np.array([(exact * one).sum(axis=1) for one in found])
    means = each.mean(axis=1)
    row: dict[str, Any] = {
        "draws": len(found),
        "cosine mean": round(float(means.mean()), 4),
        "+-": round(float(means.std()), 5),
        "min": round(float(each.min()), 4),
    }
    if text.score is not None:
        moved = np.array([100 * (text.score(one) - text.score(exact)) for one in found])
        row |= {"points": round(float(moved.mean()), 2), "+- points": round(float(moved.std()), 2)}
    return row


def _train(folder: Path) -> list[list[str]]:
    lines = (folder / "stsb" / "sts-train.csv").read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines]


def _reviews(folder: Path, count: int) -> list[str]:
    with (folder / "sst2" / "dev.tsv").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return _spread([row["sentence"].strip() for row in rows], count)


def _paragraphs(folder: Path, count: int) -> list[str]:
    """Return paragraphs, without headings."""
    lines = (folder / "wikitext2" / "wiki.valid.tokens").read_text(encoding="utf-8").splitlines()
    stripped = map(str.strip, lines)
    return _spread([line for line in stripped if line and not line.startswith("=")], count)


def _spread(items: Sequence[str], count: int) -> list[str]:
    """Return so many items, at equal distances."""
    return [items[index] for index in np.linspace(0, len(items) - 1, count).astype(int)]


def _feeds(tasks: ModuleType, sentences: Sequence[str]) -> list[Feeds]:
    return [tasks.minilm_feeds([one]) for one in sentences]
