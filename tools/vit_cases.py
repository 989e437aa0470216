"""The vision transformers of reproduce_ptq4vit.py, with what they are calibrated on and judged by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxq.digits import DIGITS_MODEL, load_digits_split
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session

Array = NDArray[Any]
Feeds = dict[str, Array]
BATCH = 25


@dataclass(frozen=True)
class Subject:
    """A model.

    Args:
        name: What the tables call it.
        model: Its file.
        feed: The name of its input.
        pool: What calibration samples are drawn from, along the first axis.
        held_out: What it is judged on.
        labels: The class of each; None where the output is a map, which is compared with that of float.

    """

    name: str
    model: Path
    feed: str
    pool: Array
    held_out: Array
    labels: Array | None

    def drawn(self, samples: int, seed: int) -> Array:
        """Return the calibration samples of one draw: at most half of the pool, so that draws differ."""
        count = min(samples, len(self.pool) // 2)
        chosen = np.random.default_rng(seed).permutation(len(self.pool))[:count]
        return self.pool[np.sort(chosen)]

    def outputs(self, model: Path) -> Array:
        """Return the first output for everything that was held out."""
        session = open_session(model, Run(threads=2))
        parts = [session.run({self.feed: part}) for part in in_batches(self.held_out)]
        return np.concatenate([part[session.output_names[0]] for part in parts])


def backbone(subject: Subject, folder: Path) -> tuple[Subject, Callable[[Array], Array]]:
    """Return ``vit_s_cifar`` up to its pooled features, and the classifier behind them."""
    path = folder / "backbone.onnx"
    onnx.utils.extract_model(str(subject.model), str(path), [subject.feed], ["features"])
    constants = {
        one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(subject.model).graph.initializer
    }
    weight, bias = constants["head.weight"], constants["head.bias"]
    return replace(subject, model=path), lambda features: features @ weight + bias


def in_batches(samples: Array) -> list[Array]:
    """Return the samples in batches of at most 25."""
    return [samples[start : start + BATCH] for start in range(0, len(samples), BATCH)]


def subjects(
    tasks: ModuleType, made: Path | None, limit: int | None
) -> Iterator[tuple[str, Callable[[], Subject]]]:
    """Yield each subject's name and what makes it.

    Args:
        tasks: The module of real tasks.
        made: The folder that real_models.py wrote to; None leaves out what it makes.
        limit: How many samples they are judged on at most.

    """
    for name in ("vit_s_cifar", "vit_s_saliency") if made is not None else ():
        yield name, lambda name=name: _of_task(name, tasks.load(name, models=made, limit=limit))  # type: ignore[misc]
    yield "mnist_vit", lambda: _of_task("mnist_vit", tasks.load("mnist_vit", limit=limit))
    yield "digits ViT", lambda: _digits(limit)


def _of_task(name: str, task: Any) -> Subject:
    (feed,) = task.batches[0]
    pool, held_out = (_joined(parts, feed) for parts in (task.calibration, task.batches))
    labels = None if name == "vit_s_saliency" else task.labels
    return Subject(name, task.model, feed, pool, held_out, labels)


def _joined(parts: Sequence[Feeds], feed: str) -> Array:
    return np.concatenate([part[feed] for part in parts])


def _digits(limit: int | None) -> Subject:
    split = load_digits_split()
    held_out, labels = split.test_images[:limit], split.test_labels[:limit]
    return Subject("digits ViT", DIGITS_MODEL, "image", split.train_images, held_out, labels)
