"""The models that bench_cpu.py times, each with the data to calibrate, time and compare it with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import architectures
import numpy as np
from numpy.typing import NDArray

from onnxq.runtime.batch import batch_size

Feeds = dict[str, NDArray[Any]]
Compared = Literal["embeddings", "logits", "nothing"]
TIMED = 8
"""How many different batches the timing goes round."""
QUICK_IMAGES = 50
REAL = 20
"""So many of 128 tokens are no padding where padded text is timed."""


@dataclass(frozen=True)
class Case:
    """One model.

    Args:
        name: What the tables call it.
        model: Its file.
        calibration: Real data, or random data for random weights.
        held_out: Real data to compare results on; empty for random weights.
        runs: What is timed, by its title.
        compared: What the results are: embeddings to pool, logits, or nothing of meaning.

    """

    name: str
    model: Path
    calibration: Sequence[Feeds]
    held_out: Sequence[Feeds]
    runs: Mapping[str, Sequence[Feeds]]
    compared: Compared

    @property
    def has_results(self) -> bool:
        """Whether results mean something; those of random weights do not."""
        return self.compared != "nothing"


@dataclass(frozen=True)
class Source:
    """Where cases come from, and how much of each is wanted."""

    tasks: ModuleType
    folder: Path
    minilm: Sequence[Path]
    quick: bool

    def cases(self) -> Iterator[tuple[str, Callable[[], Case]]]:
        """Yield each case's name and what makes it; a large model is only made when asked for."""
        for name, path in _labels(self.minilm).items():
            yield name, partial(self._minilm, name, path)
        for name in ("mnist_vit", "mnist_cntk", "cifar10_resnet20", "imagenet"):
            yield name.replace("imagenet", "squeezenet"), partial(self._images, name)
        yield "BERT-base", self._bert
        yield "ViT-base", self._vit

    def _minilm(self, name: str, path: Path) -> Case:
        text, feeds = self.tasks.SHARED / "data" / "text", self.tasks.minilm_feeds
        train = sentences(text / "stsb" / "sts-train.csv", 32 if self.quick else 128)
        dev = sentences(text / "stsb" / "sts-dev.csv", 64)
        wiki = (text / "wikitext2" / "wiki.valid.tokens").read_text(encoding="utf-8")
        long = [wiki[3000 * n + 3000 : 3000 * n + 4200] for n in range(TIMED * 8)]
        runs = {
            "batch 1, 128 tokens": [feeds([one], pad_to=128) for one in long[:TIMED]],
            "batch 1, 20 of 128 tokens real": [
                _padded(feeds([one], pad_to=128), REAL) for one in long[:TIMED]
            ],
            "batch 8, 128 tokens": [feeds(part, pad_to=128) for part in _parts(long, 8)],
            "batch 8, ragged sentences": [feeds(part) for part in _parts(dev, 8)],
        }
        calibration = [feeds(part) for part in _parts(train, 8)]
        if self.quick:
            runs.pop("batch 8, 128 tokens")
        return Case(name, path, calibration, [feeds([one]) for one in dev], runs, "embeddings")

    def _images(self, name: str) -> Case:
        task = self.tasks.load(name, limit=QUICK_IMAGES if self.quick else None)
        some = task.batches[:TIMED]
        runs = {"batch 1": [_rows(feeds, 1) for feeds in some]}
        if batch_size(some[0]) >= TIMED and not self.quick:
            runs["batch 8"] = [_rows(feeds, TIMED) for feeds in some]
        shown = name.replace("imagenet", "squeezenet")
        return Case(shown, task.model, task.calibration, task.batches, runs, "logits")

    def _bert(self) -> Case:
        path = self.folder / "bert_base.onnx"
        architectures.bert_base(path, layers=self._layers())
        rng = np.random.default_rng(1)
        ids = rng.integers(0, architectures.TOKENS, (4, 1, 128))
        feeds = [
            {"input_ids": one, "attention_mask": np.ones_like(one), "token_type_ids": np.zeros_like(one)}
            for one in ids
        ]
        return self._random("BERT-base", path, feeds, "batch 1, 128 tokens, random weights")

    def _vit(self) -> Case:
        path = self.folder / "vit_base.onnx"
        architectures.vit_base(path, layers=self._layers())
        size = architectures.PIXELS
        images = np.random.default_rng(1).normal(size=(4, 1, 3, size, size)).astype(np.float32)
        return self._random(
            "ViT-base", path, [{"pixel_values": one} for one in images], "batch 1, random weights"
        )

    def _random(self, name: str, path: Path, feeds: Sequence[Feeds], run: str) -> Case:
        shown = f"{run}, {self._layers()} layer" if self.quick else run
        return Case(name, path, feeds, (), {shown: feeds}, "nothing")

    def _layers(self) -> int:
        return 1 if self.quick else architectures.LAYERS


def _rows(feeds: Feeds, count: int) -> Feeds:
    return {name: array[:count] for name, array in feeds.items()}


def _padded(feeds: Feeds, real: int) -> Feeds:
    """Return a text of which only the first tokens are real: the rest is padding, whose token is 0."""
    return {name: np.where(np.arange(array.shape[1]) < real, array, 0) for name, array in feeds.items()}


def _labels(files: Sequence[Path]) -> dict[str, Path]:
    """Name each file by its folder, and by itself too where two lie in one."""
    folders = [path.resolve().parent.name for path in files]
    return {
        f"MiniLM {folder}" if folders.count(folder) == 1 else f"MiniLM {folder}/{path.stem}": path
        for folder, path in zip(folders, files, strict=True)
    }


def sentences(path: Path, count: int) -> list[str]:
    """Return the first sentences of a file of the STS benchmark."""
    return [line.split("\t")[5] for line in path.read_text(encoding="utf-8").splitlines()[:count]]


def _parts(items: Sequence[str], size: int) -> list[list[str]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]
