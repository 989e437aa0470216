"""Compare a compiled model with the one it came from, on data, and hold it to gates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxq.errors import DataError, ModelError
from onnxq.runtime.batch import Array, Batch, batch_size
from onnxq.runtime.bound import Replay
from onnxq.runtime.compare import EqualityComparison, FloatComparison, OutputAccuracy, plain
from onnxq.runtime.metrics import Metric
from onnxq.runtime.run import Run
from onnxq.runtime.seeded import open_comparable
from onnxq.runtime.selecting import SELECTS
from onnxq.runtime.session import Session, ValueSpec
from onnxq.shown import Shown

MASK = "attention_mask"
"""The feed of shape (N, T) whose zeros mark padding, by the name exporters give it."""

_FLOAT_MAPS = (",tensor(float))", ",tensor(float)))")
"""How ONNX Runtime's names of types end for a map to floats, and for a row of them."""

Progress = Callable[[int, int | None], None]
Comparison = FloatComparison | EqualityComparison


@dataclass(frozen=True)
class MetricResult:
    """A task metric of both models; one point is 0.01."""

    name: str
    reference: float
    candidate: float

    @property
    def drop(self) -> float:
        """How many points the candidate loses; negative if it gains."""
        return 100 * (self.reference - self.candidate)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and the drop in points."""
        return dict(plain({**asdict(self), "drop_points": self.drop}))


@dataclass(frozen=True)
class AccuracyReport(Shown):
    """What ``validate`` found.

    Args:
        reference: The file of the reference.
        candidate: The file of the candidate.
        samples: How many samples were compared.
        batches: In how many batches.
        outputs: One entry for each output, in the model's order.
        metric: The task metric, if one was asked for.
        notes: What a reader must know about the numbers.

    """

    reference: str
    candidate: str
    samples: int
    batches: int
    outputs: tuple[OutputAccuracy, ...]
    metric: MetricResult | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "reference": self.reference,
            "candidate": self.candidate,
            "samples": self.samples,
            "batches": self.batches,
            "outputs": [output.to_dict() for output in self.outputs],
            "metric": self.metric.to_dict() if self.metric else None,
            "notes": list(self.notes),
        }


def validate(
    reference: Session | Path,
    candidate: Session | Path,
    batches: Iterable[Batch],
    metric: Metric | None = None,
    run: Run = Run(),
    *,
    on_progress: Progress | None = None,
) -> AccuracyReport:
    """Run both models on every batch and compare their outputs, in a stream.

    Float tensors are compared by cosine, SQNR, largest difference and, where they look like
    rows of classes, by the place of the largest value; all else by equality. Random operators of models
    given as files draw the same numbers in both, and where they select boxes, what they select from is
    compared, and not what depends on the selection. Where the data
    has an ``attention_mask`` of shape (N, T), outputs of shape (N, T, ...) are compared only
    where it is not zero, and the report's notes say so.

    Args:
        reference: The original model: a file, or a session that is open already.
        candidate: The compiled model, with the same outputs.
        batches: The data; it is gone through once.
        metric: A task metric, computed for both models.
        run: Where and how models run that are given as files. All batches of a CUDA graph are of one shape.
        on_progress: Called with (batches done, batches in all, or None if unknown).

    Raises:
        ModelError: A model does not load or run, or their outputs differ in name, type or shape.
        DataError: There is no data, it does not fit, or the metric wants labels it lacks.

    """
    first, second = (
        open_comparable(model, run) if isinstance(model, Path) else model for model in (reference, candidate)
    )
    pair = _Pair(first, second, metric)
    total = len(batches) if isinstance(batches, Sized) else None
    for batch in batches:
        pair.update(batch)
        if on_progress:
            on_progress(pair.batches, total)
    return pair.report()


class _Pair:
    """Two models that run on the same batches, and what was found so far."""

    def __init__(self, first: Session, second: Session, metric: Metric | None) -> None:
        self.first, self.second, self.metric = first, second, metric
        self.runs = [
            Replay(session, "cuda").run if session.asked.cuda_graph else session.run
            for session in (first, second)
        ]
        self.comparisons = _comparisons(first, second)
        self.scores = [metric.start(), metric.start()] if metric else []
        self.samples = self.batches = 0

    def update(self, batch: Batch) -> None:
        """Run both on one batch, and compare."""
        results = [run(batch.feeds) for run in self.runs]
        size = batch_size(self.first.select(batch.feeds))
        for comparison, spec in self.comparisons:
            values = (_numbers(spec, result[spec.name]) for result in results)
            ours, theirs = _aligned(self.second.source, spec, *values)
            comparison.update(ours, theirs, _kept(batch, spec, ours), size)
        for score, result in zip(self.scores, results, strict=bool(self.scores)):
            score.update(result, batch)
        self.samples += size
        self.batches += 1

    def report(self) -> AccuracyReport:
        """Return what was found.

        Raises:
            DataError: There was no batch.

        """
        if not self.batches:
            raise DataError("there is no data to validate on", hint="give at least one batch")
        outputs = tuple(comparison.result() for comparison, _ in self.comparisons)
        metric = self.metric
        return AccuracyReport(
            reference=self.first.source,
            candidate=self.second.source,
            samples=self.samples,
            batches=self.batches,
            outputs=outputs,
            metric=MetricResult(metric.name, *(one.result() for one in self.scores)) if metric else None,
            notes=(*_notes(outputs), *_note_of_seeds(self.first), *_note_of_selection(self.first)),
        )


def _comparisons(first: Session, second: Session) -> list[tuple[Comparison, ValueSpec]]:
    """Return one empty comparison for each output but those behind a selection, in the reference's order."""
    ours, theirs = set(second.output_names), set(first.output_names)
    if ours != theirs:
        parts = [("lacks", theirs - ours), ("has besides", ours - theirs)]
        text = "; ".join(f"{verb} {', '.join(map(repr, sorted(names)))}" for verb, names in parts if names)
        raise ModelError(f"its outputs differ from those of {first.source}: it {text}", where=second.source)
    types = {spec.name: spec for spec in second.outputs}
    compared = [spec for spec in first.outputs if spec.name not in first.selected]
    return [(_comparison(spec, types[spec.name], second.source), spec) for spec in compared]


def _comparison(reference: ValueSpec, candidate: ValueSpec, source: str) -> Comparison:
    if _is_float(reference) and _is_float(candidate):
        return FloatComparison(reference.name)
    if reference.type != candidate.type:
        raise ModelError(
            f"output {reference.name!r} is {candidate.type}, the reference has {reference.type}", where=source
        )
    return EqualityComparison(reference.name)


def _is_float(spec: ValueSpec) -> bool:
    return spec.type.endswith(_FLOAT_MAPS) or (spec.dtype is not None and spec.dtype.kind == "f")


def _numbers(spec: ValueSpec, value: Any) -> Any:
    """Return the numbers of a row of maps, in the order of their keys; other values are what they are."""
    if not spec.type.endswith(_FLOAT_MAPS):
        return value
    rows = value if isinstance(value, list) else [value]
    return np.array([[row[key] for key in sorted(row)] for row in rows], np.float32)


def _aligned(source: str, spec: ValueSpec, reference: Any, candidate: Any) -> tuple[Any, Any]:
    """Return both results in one shape: where sizes depend on the data, with zeros at the end."""
    if not isinstance(reference, np.ndarray) or reference.shape == np.shape(candidate):
        return reference, candidate
    shapes = reference.shape, np.shape(candidate)
    numbers = reference.dtype.kind in "fiub"
    if len(shapes[0]) != len(shapes[1]) or not numbers or not _may_differ(spec, *shapes):
        raise ModelError(
            f"output {spec.name!r} has shape {list(shapes[1])}, the reference gives {list(shapes[0])}",
            where=source,
        )
    largest = [max(sizes) for sizes in zip(*shapes, strict=True)]
    return _padded(reference, largest), _padded(np.asarray(candidate), largest)


def _may_differ(spec: ValueSpec, first: Sequence[int], second: Sequence[int]) -> bool:
    """Tell whether the sizes differ only where the model does not fix them."""
    sizes = zip(spec.shape or (None,) * len(first), first, second, strict=False)
    return all(one == other or not isinstance(stated, int) for stated, one, other in sizes)


def _padded(array: Array, sizes: Sequence[int]) -> Array:
    return np.pad(array, [(0, want - size) for want, size in zip(sizes, array.shape, strict=True)])


def _kept(batch: Batch, spec: ValueSpec, output: Any) -> Array | None:
    """Return which (N, T) positions count, or None if this output has none of padding.

    An output of two axes is taken for tokens only if its second size is not fixed: a row of
    T classes must not be cut by a mask of T tokens.
    """
    mask = batch.feeds.get(MASK)
    if mask is None or mask.ndim != 2 or not isinstance(output, np.ndarray):
        return None
    fixed = output.ndim == 2 and isinstance(spec.shape[1], int)
    if output.shape[:2] != mask.shape or fixed:
        return None
    return np.not_equal(mask, 0)


def _notes(outputs: Sequence[OutputAccuracy]) -> tuple[str, ...]:
    left_out = [(one.name, one.masked, f"values of padding ({MASK} is 0)") for one in outputs] + [
        (one.name, one.non_finite + one.new_non_finite, "NaN or infinite values") for one in outputs
    ]
    return tuple(f"output {name!r}: {count} {what} were left out" for name, count, what in left_out if count)


def _note_of_selection(reference: Session) -> tuple[str, ...]:
    """Say what was not compared, as a box more or less moves all rows behind it."""
    if not reference.selected:
        return ()
    names = ", ".join(map(repr, reference.selected))
    return (f"{names}: depends on which boxes {SELECTS} takes; compared is what it takes them from",)


def _note_of_seeds(reference: Session) -> tuple[str, ...]:
    """Say that the numbers do not hold what random operators do from run to run."""
    if not reference.drawing:
        return ()
    operators = ", ".join(reference.drawing)
    return (f"{operators}: the model draws random numbers; both models got the same, by one seed",)
