"""The models that check_cuda.py compiles and times, and the artifacts that it makes of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import architectures as nets
import numpy as np
from numpy.typing import NDArray

Feeds = dict[str, NDArray[Any]]
LOWER = "lower-precision.io=lower"
"""A decoder's cache goes in and out with every step, and would be cast each time."""
FP16, WEIGHTS_4, WEIGHTS_8 = "fp16", "weights 4 bit", "weights 8 bit"
WEIGHTS_FP8, INT8 = "weights float8", "int8 QDQ"
SENTENCES, PAST = 64, 512


@dataclass(frozen=True)
class Artifact:
    """One way to compile a model.

    Args:
        recipe: A shipped recipe.
        options: Options of its passes, as ``pass.option=value``.
        for_cuda: Whether it is meant for CUDA, and no node may lack a kernel there.

    """

    recipe: str
    options: tuple[str, ...] = ()
    for_cuda: bool = True


@dataclass(frozen=True)
class Case:
    """One model.

    Args:
        name: What the tables call it.
        model: Its file.
        runs: What is timed, by its title; the first feeds of the first run are compared too.
        artifacts: What is made of it.
        sentences: Real feeds to compare on, for a sentence encoder.

    """

    name: str
    model: Path
    runs: Mapping[str, Sequence[Feeds]]
    artifacts: Mapping[str, Artifact]
    sentences: Sequence[Feeds] = field(default=())


def artifacts(*options: str) -> dict[str, Artifact]:
    """Return what is made of every model: float16, weights in blocks, and int8 as CPUs want it."""
    return {
        FP16: Artifact("cuda", options),
        WEIGHTS_8: Artifact("cuda-weights-8", options),
        WEIGHTS_4: Artifact("cuda-weights-4", options),
        WEIGHTS_FP8: Artifact("cuda-weights-fp8", options),
        INT8: Artifact("portable", for_cuda=False),
    }


@dataclass(frozen=True)
class Source:
    """Where cases come from; with ``quick`` they have a layer or two."""

    tasks: ModuleType | None
    folder: Path
    minilm: Path | None
    quick: bool

    def cases(self) -> Iterator[tuple[str, Callable[[], Case]]]:
        """Yield each case's name and what makes it; a large model is only made when asked for."""
        if self.minilm is not None and self.tasks is not None:
            yield "MiniLM", partial(self._minilm, self.minilm, self.tasks)
        yield "BERT-base", self._bert
        yield "ViT-base", partial(self._images, "ViT-base", nets.vit_base, "pixel_values", nets.LAYERS)
        yield "resnet50", partial(self._images, "resnet50", nets.resnet50, "images", None)
        yield "decoder step", self._decoder

    def _minilm(self, path: Path, tasks: ModuleType) -> Case:
        text = (tasks.SHARED / "data" / "text" / "stsb" / "sts-dev.csv").read_text(encoding="utf-8")
        lines = [line.split("\t")[5] for line in text.splitlines()[:SENTENCES]]
        sentences = [tasks.minilm_feeds(lines[start : start + 8]) for start in range(0, len(lines), 8)]
        runs = {
            f"batch {size}, 128 tokens": [tasks.minilm_feeds(lines[:size], pad_to=128)] for size in (1, 32)
        }
        return Case("MiniLM", path, runs, artifacts(), sentences)

    def _bert(self) -> Case:
        path = self.folder / "bert_base.onnx"
        nets.bert_base(path, layers=self._layers(nets.LAYERS))
        rng = np.random.default_rng(1)
        runs: dict[str, list[Feeds]] = {}
        for size in (1, 32):
            ids = rng.integers(0, nets.TOKENS, (size, 128))
            feeds = {
                "input_ids": ids,
                "attention_mask": np.ones_like(ids),
                "token_type_ids": np.zeros_like(ids),
            }
            runs[f"batch {size}, 128 tokens"] = [feeds]
        return Case("BERT-base", path, runs, artifacts())

    def _images(self, name: str, write: Callable[..., None], entry: str, layers: int | None) -> Case:
        path = self.folder / f"{name}.onnx"
        write(path, 1 if self.quick else layers)
        shape = (3, nets.PIXELS, nets.PIXELS)
        rng = np.random.default_rng(1)
        runs = {
            f"batch {size}": [{entry: rng.normal(size=(size, *shape)).astype(np.float32)}] for size in (1, 32)
        }
        return Case(name, path, runs, artifacts())

    def _decoder(self) -> Case:
        path, layers = self.folder / "decoder.onnx", self._layers(nets.STEP_LAYERS)
        nets.decoder_step(path, layers=layers)
        rng = np.random.default_rng(1)
        cache = (nets.STEP_HEADS, PAST, nets.STEP_WIDTH // nets.STEP_HEADS)
        runs: dict[str, list[Feeds]] = {}
        for size in (1, 32):
            feeds: Feeds = {"input_ids": rng.integers(0, nets.STEP_TOKENS, (size, 1))}
            for layer in range(layers):
                for part in ("key", "value"):
                    feeds[f"past_{part}_{layer}"] = rng.normal(size=(size, *cache)).astype(np.float32)
            runs[f"batch {size}, {PAST} tokens before"] = [feeds]
        return Case("decoder step", path, runs, artifacts(LOWER))

    def _layers(self, all_of_them: int) -> int:
        return 1 if self.quick else all_of_them
