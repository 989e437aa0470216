"""The models that check_cuda.py compiles and times, what it makes of each, and what it feeds them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import architectures as nets
import numpy as np
from numpy.typing import NDArray

Feeds = dict[str, NDArray[Any]]
Runs = Mapping[str, Callable[[], Feeds]]
"""What is timed, by its title, each made when it is wanted."""
LOWER = "lower-precision.io=lower"
"""A decoder's cache goes in and out with every step, and would be cast each time."""
BEHIND = "padding=behind"
FP32, FP16, BF16, UNPACKED, LENGTHS = "fp32", "fp16", "bf16", "fp16 not packed", "fp16 key lengths"
IN_PLACE, IN_PLACE_4 = "fp16 in place", "weights 4 bit in place"
WEIGHTS_4, WEIGHTS_8 = "weights 4 bit", "weights 8 bit"
WEIGHTS_FP8, INT8 = "weights float8", "int8 QDQ"
MINILM, BERT, VIT, RESNET, DECODER = "MiniLM", "BERT-base", "ViT-base", "resnet50", "decoder step"
BATCHES = (1, 8, 32)
GRAPH_BATCHES = (1, 8)
"""Those that are recorded and replayed as CUDA graphs too: larger ones do not wait for launches."""
SENTENCES, TOKENS, PAST = 64, 128, 512


@dataclass(frozen=True)
class Artifact:
    """One way to compile a model.

    Args:
        recipe: A shipped recipe.
        options: Options of its passes, as ``pass.option=value``.
        without: Passes of the recipe that are left out.
        for_cuda: Whether it is meant for CUDA, and no node may lack a kernel there.
        in_place: Whether its cache is bound as what comes in and what goes out.

    """

    recipe: str
    options: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    for_cuda: bool = True
    in_place: bool = False


ATTENDING = {
    UNPACKED: Artifact("cuda", without=("pack-attention",)),
    BF16: Artifact("cuda", ("lower-precision.dtype=bfloat16",)),
}
"""For models that attend: what packing is worth, and the other type, which NumPy cannot feed a cache in."""
LENGTHS_TOO = {LENGTHS: Artifact("cuda", (f"pack-attention.{BEHIND}",))}
"""For models whose mask is of padding."""
KEPT = (LOWER, f"cache-in-place.{BEHIND}")
IN_PLACE_TOO = {
    IN_PLACE: Artifact("cuda", KEPT, in_place=True),
    IN_PLACE_4: Artifact("cuda-weights-4", KEPT, in_place=True),
}
"""For decoders."""


@dataclass(frozen=True)
class Case:
    """One model.

    Args:
        name: What the tables call it.
        write: Writes the model to a file.
        artifacts: What is made of it.
        sentences: Returns real feeds to compare on, for a sentence encoder; else the first run is taken.

    """

    name: str
    write: Callable[[Path], object]
    artifacts: Mapping[str, Artifact]
    sentences: Callable[[], Sequence[Feeds]] | None = None


def cases(minilm: Path | None, tasks: ModuleType | None, *, quick: bool) -> list[Case]:
    """Return the models; with ``quick`` they have a layer or two, and MiniLM only comes as a file."""
    found = []
    if minilm is not None and tasks is not None:
        copy = partial(shutil.copyfile, minilm)
        every = ATTENDING | LENGTHS_TOO | artifacts()
        found.append(Case(MINILM, copy, every, partial(_sentences, tasks)))
    layers, blocks = (1, 1) if quick else (nets.LAYERS, None)
    found += [
        Case(BERT, partial(nets.bert_base, layers=layers), ATTENDING | LENGTHS_TOO | artifacts()),
        Case(VIT, partial(nets.vit_base, layers=layers), ATTENDING | artifacts()),
        Case(RESNET, partial(nets.resnet50, blocks=blocks), artifacts()),
        Case(DECODER, partial(nets.decoder_step, layers=_steps(quick)), IN_PLACE_TOO | artifacts(LOWER)),
    ]
    return found


def artifacts(*options: str) -> dict[str, Artifact]:
    """Return what is made of every model: float16, weights in blocks, and int8 as CPUs want it."""
    return {
        FP16: Artifact("cuda", options),
        WEIGHTS_8: Artifact("cuda-weights-8", options),
        WEIGHTS_4: Artifact("cuda-weights-4", options),
        WEIGHTS_FP8: Artifact("cuda-weights-fp8", options),
        INT8: Artifact("portable", for_cuda=False),
    }


def runs(name: str, *, quick: bool) -> Runs:
    """Return what the model of this name is timed on, the smallest batch first."""
    if name in (MINILM, BERT):
        return {title(name, size): partial(_tokens, size) for size in BATCHES}
    if name == DECODER:
        return {title(name, size): partial(_step, size, _steps(quick)) for size in BATCHES}
    entry = "images" if name == RESNET else "pixel_values"
    return {title(name, size): partial(_images, size, entry) for size in BATCHES}


def title(name: str, size: int) -> str:
    """Return what a batch of ``size`` for the model of this name is called."""
    more = {MINILM: f", {TOKENS} tokens", BERT: f", {TOKENS} tokens", DECODER: f", {PAST} tokens before"}
    return f"batch {size}{more.get(name, '')}"


def _steps(quick: bool) -> int:
    return 1 if quick else nets.STEP_LAYERS


def _sentences(tasks: ModuleType) -> list[Feeds]:
    text = (tasks.SHARED / "data" / "text" / "stsb" / "sts-dev.csv").read_text(encoding="utf-8")
    lines = [line.split("\t")[5] for line in text.splitlines()[:SENTENCES]]
    return [tasks.minilm_feeds(lines[start : start + 8]) for start in range(0, len(lines), 8)]


def _tokens(size: int) -> Feeds:
    ids = np.random.default_rng(1).integers(0, nets.TOKENS, (size, TOKENS))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def _images(size: int, entry: str) -> Feeds:
    shape = (size, 3, nets.PIXELS, nets.PIXELS)
    return {entry: np.random.default_rng(1).standard_normal(shape, np.float32)}


def _step(size: int, layers: int) -> Feeds:
    rng = np.random.default_rng(1)
    cache = (size, nets.STEP_HEADS, PAST, nets.STEP_WIDTH // nets.STEP_HEADS)
    feeds: Feeds = {"input_ids": rng.integers(0, nets.STEP_TOKENS, (size, 1))}
    feeds["attention_mask"] = np.ones((size, PAST + 1), np.int64)
    names = [f"past_{part}_{layer}" for layer in range(layers) for part in ("key", "value")]
    return feeds | {name: rng.standard_normal(cache, np.float32) for name in names}


def with_room(feeds: Feeds, caches: Mapping[str, str]) -> Feeds:
    """Return the feeds of a step, with room for its token behind the others where caches stay in place."""
    behind = ((0, 0), (0, 0), (0, 1), (0, 0))
    return {**feeds, **{name: np.pad(feeds[name], behind) for name in caches.values()}}
