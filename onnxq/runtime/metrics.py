"""Task metrics: how good a model's answers are, computed in a stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from onnxq.errors import DataError, RecipeError, did_you_mean
from onnxq.runtime.batch import Array, Batch

Outputs = Mapping[str, Any]


class Accumulator(Protocol):
    """Takes batch after batch, then tells the result; memory is its own business."""

    def update(self, outputs: Outputs, batch: Batch) -> None:
        """Take the outputs of one batch, by name in the model's order."""
        ...

    def result(self) -> float:
        """Return the metric over all batches; higher is better, and one point is 0.01."""
        ...


@dataclass(frozen=True)
class Metric:
    """A named way to judge a model.

    Args:
        name: What reports call it.
        start: Gives a fresh accumulator; each model that is judged gets its own.

    """

    name: str
    start: Callable[[], Accumulator]


@dataclass
class MeanOf:
    """The mean over all samples of ``score(outputs, batch)``, an array of one number for each."""

    score: Callable[[Outputs, Batch], Array]
    total: float = 0.0
    count: int = 0

    def update(self, outputs: Outputs, batch: Batch) -> None:
        """Add the scores of one batch."""
        scores = np.asarray(self.score(outputs, batch), np.float64)
        self.total += float(scores.sum())
        self.count += scores.size

    def result(self) -> float:
        """Return the mean, or NaN if there was nothing."""
        return self.total / self.count if self.count else float("nan")


def top1(outputs: Outputs, batch: Batch) -> Array:
    """Return, for each sample, whether its largest value in the first output is the label's.

    The first output has shape (N, classes), or more axes that are flattened; the labels
    have shape (N,).

    Raises:
        DataError: There are no labels, or not one for each sample, or they are no numbers.

    """
    name, first = next(iter(outputs.items()))
    if batch.labels is None:
        raise DataError(
            "the data has no labels", where="metric 'top1'", hint="give data with a labels column"
        )
    labels = np.asarray(batch.labels)
    if labels.shape != first.shape[:1]:
        raise DataError(
            f"labels of shape {list(labels.shape)} do not fit output {name!r} of shape {list(first.shape)}",
            where="metric 'top1'",
            hint="top1 wants one class number for each sample",
        )
    if not np.issubdtype(labels.dtype, np.number):
        raise DataError(
            f"labels such as {str(labels[0])!r} are no numbers",
            where="metric 'top1'",
            hint="top1 wants the number of the class in the model's output, counted from 0",
        )
    classes: Array = first.reshape(len(first), -1).argmax(axis=1)
    return np.equal(classes, labels.astype(np.int64))


BUILT_IN: Mapping[str, Metric] = {"top1": Metric("top1", lambda: MeanOf(top1))}


def load_metric(text: str) -> Metric:
    """Return a built-in metric by name, or a user's by ``package.module:name``.

    The name may stand for one of two things, and both take ``(outputs, batch)``: a mapping
    from output names to arrays, and the batch with its ``feeds`` and ``labels``.

    - A function that returns one score for each sample; the metric is their mean.
    - A class with ``update(outputs, batch)`` and ``result() -> float``, for metrics that are
      no mean, such as a rank correlation.

    Higher must be better. One point of the metric is 0.01, as for a share.

    Raises:
        RecipeError: There is no such metric, module or name.

    """
    if ":" not in text:
        if text not in BUILT_IN:
            hint = did_you_mean(text, BUILT_IN)
            raise RecipeError(
                "no such metric",
                where=f"metric {text!r}",
                hint=f"{hint}; one of your own is package.module:function",
            )
        return BUILT_IN[text]
    module_name, _, name = text.partition(":")
    try:
        found = getattr(import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise RecipeError(
            str(error), where=f"metric {text!r}", hint="the module must lie on Python's path"
        ) from error
    if not callable(found):
        raise RecipeError("neither a function nor a class", where=f"metric {text!r}")
    return Metric(text, found if isinstance(found, type) else lambda: MeanOf(found))
