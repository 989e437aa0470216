"""Run the model over the data once and let observers measure the values that passes asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxq.calibration.masks import TokenAxes, find_token_axes, padding, without_padding
from onnxq.calibration.observers import ValueObserver
from onnxq.calibration.opening import bytes_inside, opened
from onnxq.calibration.trimming import one_by_one, trimmed
from onnxq.errors import CalibrationError
from onnxq.quant.facts import Facts, Need, Place
from onnxq.quant.statistics import Statistic
from onnxq.runtime.batch import Feeds
from onnxq.runtime.run import Run
from onnxq.runtime.session import Session

if TYPE_CHECKING:
    import onnx_ir as ir

HEAVY = 1 << 28
"""Bytes of a batch's observed values from which on samples run one by one: two batches are held at a time."""

HEAVY_INSIDE = 1 << 29
"""The same of all values that are computed: a session holds a good part of them at a time."""

Progress = Callable[[int], None]


class Batch(Protocol):
    """Some samples: feeds by input name, and how many samples they are."""

    @property
    def feeds(self) -> Feeds:
        """The model's inputs by name."""

    @property
    def rows(self) -> int:
        """The number of samples."""


class Data(Protocol):
    """Anything that yields batches."""

    def batches(self) -> Iterator[Batch]:
        """Yield the batches from the beginning."""


@dataclass(frozen=True)
class Collected:
    """What one pass over the data gave.

    Args:
        facts: Value name to facts.
        samples: How many samples there were.

    """

    facts: Mapping[str, Facts]
    samples: int


def collect(
    model: ir.Model | Path,
    needs: Iterable[Need],
    data: Data,
    run: Run = Run(),
    *,
    on_progress: Progress | None = None,
) -> Collected:
    """Measure values of ``model`` in one streaming pass, each node by its own kernel; gradients in another.

    So a value's numbers do not depend on what else is asked for: ONNX Runtime's optimiser fuses what no
    output lies between, and rounds otherwise there.

    Infinities, as masks hold them, are measured like other values. Memory does not grow with the number
    of samples, and the facts do not depend on how ``data`` cuts them into batches. Tokens that
    ``attention_mask`` leaves out are not measured. A copy
    of an ``ir.Model`` goes to a temporary folder, with its weights beside it, so that a model of any size
    can be measured.

    Args:
        model: The model, or its file.
        needs: What to measure: inputs, outputs and inner values of the main graph.
        data: The samples; batches of about 8 are fastest.
        run: Where and how to run.
        on_progress: Called after each batch with the number of samples so far; for gradients once more.

    Raises:
        PreconditionError: A wanted value does not exist, or does not hold floats.
        CalibrationError: A wanted value is NaN somewhere, or there is no data.
        DataError: The data does not fit the model.
        ModelError: ONNX Runtime cannot load or run the model.

    """
    needs = tuple(needs)
    observers = _observers(need.of_values for need in needs)
    if not observers:
        return Collected({}, 0)
    with opened(model, observers, run) as session:
        batches = _Batches(session, data, 0 if isinstance(model, Path) else bytes_inside(model))
        samples = _stream(session, observers, batches, on_progress)
    if samples == 0:
        raise CalibrationError(
            "there is no sample to calibrate on", hint="give data with at least one sample"
        )
    facts = {name: observer.facts() for name, observer in observers.items()}
    some = [need.of_gradients for need in needs if need.of_gradients.stats and facts[need.value].count]
    for name, parts in _of_gradients(model, some, data, run, on_progress).items() if some else ():
        facts[name] = facts[name].with_parts(parts)
    return Collected(facts, samples)


def _of_gradients(
    model: ir.Model | Path, needs: Sequence[Need], data: Data, run: Run, on_progress: Progress | None
) -> Mapping[str, Mapping[Place, Statistic]]:
    """Return what gradients tell besides, by value, for which the data is streamed once more."""
    from onnxq.calibration.curvature import curvature
    from onnxq.ir.module import GraphModule
    from onnxq.ir.store import load_model

    module = load_model(model) if isinstance(model, Path) else GraphModule(model)
    return curvature(module, needs, data, run, on_progress or (lambda done: None))


def _stream(
    session: Session, observers: Mapping[str, ValueObserver], batches: _Batches, on_progress: Progress | None
) -> int:
    """Observe one batch while the next one runs; return the number of samples."""
    samples, watch = 0, _Watch(session, observers)
    with ThreadPoolExecutor(1) as observing:
        pending: Future[None] = observing.submit(lambda: None)
        for number, batch in enumerate(batches):
            values = {**batch.feeds, **session.run(batch.feeds)}
            batches.heavy |= sum(values[name].nbytes for name in observers) > HEAVY
            pending.result()
            place = f"batch {number} (samples {samples} to {samples + batch.rows - 1})"
            pending = observing.submit(watch.observe, batch, values, place)
            samples += batch.rows
            if on_progress is not None:
                on_progress(samples)
        pending.result()
    return samples


@dataclass
class _Batches:
    """The batches of data without padding; its samples one by one where a batch's values are large.

    Args:
        session: What runs them.
        data: The samples.
        inside: The bytes of what is computed of one sample, as far as shapes tell.
        heavy: Whether what was observed of a batch was large.

    """

    session: Session
    data: Data
    inside: int
    heavy: bool = field(default=False, init=False)

    def __iter__(self) -> Iterator[Batch]:
        """Begin anew."""
        shapes = {spec.name: spec.shape for spec in self.session.inputs}
        for batch in trimmed(self.data.batches(), self.session):
            heavy = self.heavy or batch.rows * self.inside > HEAVY_INSIDE
            single = heavy and batch.rows > 1
            yield from one_by_one(batch, shapes) if single else [batch]


@dataclass
class _Watch:
    """Hands each batch's values to their observers, without padding."""

    session: Session
    observers: Mapping[str, ValueObserver]
    tokens: dict[str, TokenAxes] | None = field(default=None, init=False)

    def observe(self, batch: Batch, values: Mapping[str, NDArray[Any]], place: str) -> None:
        """Let every observer take in one batch."""
        keep = padding(batch.feeds)
        for name, observer in self.observers.items():
            array = values[name]
            parts: Iterable[NDArray[Any]] = [_by_sample(array, batch.rows)]
            if keep is not None and (where := self._token_axes(batch, values)[name]).axes:
                parts = without_padding(array, where, keep)
            for part in parts:
                _update(observer, part, array.ndim, place)

    def _token_axes(self, batch: Batch, values: Mapping[str, NDArray[Any]]) -> Mapping[str, TokenAxes]:
        """Find them in the first batch that has padding."""
        if self.tokens is None:
            shapes = {name: values[name].shape for name in self.observers}
            self.tokens = find_token_axes(self.session, batch.feeds, shapes)
        return self.tokens


def _update(observer: ValueObserver, values: NDArray[Any], rank: int, place: str) -> None:
    if values.size == 0:
        return
    blocks = observer.blocks(values.astype(np.float32, copy=False), rank)
    if np.isnan(next(iter(blocks.values())).lowest).any():
        raise CalibrationError(
            f"it is NaN in {place}",
            where=f"value {observer.name!r}",
            hint="look at these samples; a float16 model overflows beyond 65504: calibrate its float32 form",
        )
    observer.update(blocks)


def _by_sample(values: NDArray[Any], rows: int) -> NDArray[Any]:
    """Give ``values`` an axis 0 that counts the samples: (B*T, ...) becomes (B, T, ...)."""
    if values.ndim and values.shape[0] == rows:
        return values
    if values.ndim and values.shape[0] % rows == 0:
        return values.reshape(rows, values.shape[0] // rows, *values.shape[1:])
    return values[np.newaxis]


def _observers(needs: Iterable[Need]) -> dict[str, ValueObserver]:
    """Make one observer for each value, by name."""
    by_value: dict[str, list[Need]] = {}
    for need in needs:
        by_value.setdefault(need.value, []).append(need)
    return {name: ValueObserver(wishes) for name, wishes in sorted(by_value.items())}
