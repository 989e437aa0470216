"""The models that reproduce_splitquant.py measures: what they are fed, and how their results are scored."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from measuring import REPOSITORY
from numpy.typing import NDArray

Feeds = dict[str, NDArray[Any]]
Results = Sequence[NDArray[np.float32]]
BATCH = 50
LONG = 128
"""Tokens of the timed inputs."""


@dataclass(frozen=True)
class Case:
    """One model and its task.

    Args:
        name: What tables call it.
        model: Its file.
        feeds: The held-out data in batches.
        score: From the first output of each batch to the task's score, in percent.
        unit: What the score is.
        calibration: Other data, to measure activations on.
        timed: One input of one sample.
        paper: The published scores of fp32, INT2 and INT2 split, where there are any.

    """

    name: str
    model: Path
    feeds: Sequence[Feeds]
    score: Callable[[Results], float]
    unit: str
    calibration: Sequence[Feeds]
    timed: Sequence[Feeds]
    paper: tuple[float, float, float] | None = None


PAPER = {"emotion": (90.2, 86.5, 89.8), "spam": (98.4, 96.2, 98.3)}
"""Song and Lin, 2025, table 1: BERT-Tiny in fp32, INT2, and INT2 with SplitQuant; percent."""


def cases(assets: Path, minilm: Path | None, tasks: ModuleType | None, limit: int | None) -> Iterator[Case]:
    """Yield both classifiers and, where its file is given, all-MiniLM-L6-v2."""
    for name in ("emotion", "spam"):
        yield _classifier(name, assets / "data" / "text", limit)
    if minilm is not None and tasks is not None:
        yield _similarity(minilm, tasks, limit)


def _classifier(name: str, folder: Path, limit: int | None) -> Case:
    texts = _text_data().read_texts(name, folder)
    model = REPOSITORY / "models" / f"bert_tiny_{name}.onnx"
    encode = _encoder(model.with_suffix(".tokenizer.json"))
    labels = np.array([label for _, label in texts.dev[:limit]])
    held_out = [text for text, _ in texts.dev[:limit]]
    known = [text for text, _ in texts.train[:128]]

    def score(results: Results) -> float:
        return 100 * float((np.concatenate(list(results)).argmax(axis=1) == labels).mean())

    return Case(
        name=f"BERT-Tiny, {name}",
        model=model,
        feeds=[encode(held_out[start : start + BATCH]) for start in range(0, len(held_out), BATCH)],
        score=score,
        unit=f"accuracy on {len(labels)} texts, percent",
        calibration=[encode(known[start : start + 8]) for start in range(0, len(known), 8)],
        timed=[encode([" ".join(known)])],
        paper=PAPER[name],
    )


def _similarity(model: Path, tasks: ModuleType, limit: int | None) -> Case:
    task = tasks.load("stsb", limit=limit)
    text = (tasks.SHARED / "data" / "text" / "wikitext2" / "wiki.valid.tokens").read_text(encoding="utf-8")
    return Case(
        name="MiniLM, STS benchmark",
        model=model,
        feeds=task.batches,
        score=lambda results: 100 * float(task.score([[result] for result in results], task.labels)),
        unit=f"Spearman on {len(task.labels)} pairs, percent",
        calibration=task.calibration[:16],
        timed=[tasks.minilm_feeds([text[3000:6000]], pad_to=LONG)],
    )


def _encoder(path: Path) -> Callable[[list[str]], Feeds]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_padding(pad_id=0)

    def encode(texts: list[str]) -> Feeds:
        rows = tokenizer.encode_batch(texts)
        return {
            "input_ids": np.array([row.ids for row in rows], np.int64),
            "attention_mask": np.array([row.attention_mask for row in rows], np.int64),
        }

    return encode


def _text_data() -> ModuleType:
    """Return the module beside the models that says which texts are held out."""
    spec = importlib.util.spec_from_file_location("text_data", REPOSITORY / "models" / "text_data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["text_data"] = module
    spec.loader.exec_module(module)
    return module
