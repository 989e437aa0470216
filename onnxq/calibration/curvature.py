"""How much the loss cares for values: squared gradients, drawn anew for each sample and streamed.

The model that draws them (``drawing.py``) runs sample by sample, so that what is measured does not depend on
how samples are cut into batches. Tokens that ``attention_mask`` leaves out are no part of the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxq.autodiff import prepared, random_signs
from onnxq.calibration.drawing import Drawing, Watched, drawing_of
from onnxq.calibration.masks import TokenAxes, find_token_axes, padding, reality
from onnxq.calibration.opening import opened
from onnxq.calibration.trimming import Sized, one_by_one, trimmed
from onnxq.errors import CalibrationError
from onnxq.ir.module import GraphModule
from onnxq.quant.facts import Kind, Need, Place
from onnxq.quant.statistics import Statistic
from onnxq.quant.statistics.base import Block, Float32, Observer
from onnxq.runtime.batch import Feeds
from onnxq.runtime.run import Run
from onnxq.runtime.session import Session

DRAWS = 4
"""How often the gradient of a sample is drawn: samples differ far more than draws of one."""

Parts = dict[str, dict[Place, Statistic]]
"""Statistics by value and place."""


class Data(Protocol):
    """Anything that yields batches."""

    def batches(self) -> Iterator[Sized]:
        """Yield the batches from the beginning."""


def curvature(
    module: GraphModule, needs: Iterable[Need], data: Data, run: Run, on_progress: Callable[[int], None]
) -> Parts:
    """Measure what ``needs`` ask for that is told by gradients, in one stream over the data.

    Args:
        module: Stays as it is.
        needs: Each for statistics of gradients alone.
        data: The samples.
        run: Where and how to run.
        on_progress: Called after each run with the number of samples so far.

    Raises:
        CalibrationError: A gradient is NaN somewhere.
        ModelError: An operator on the way to an output has no gradient, or ONNX Runtime fails.
        PreconditionError: A value cannot be watched in this way.

    """
    wishes = [(need.value, need.axis, kind) for need in needs for kind in sorted(need.stats, key=_name)]
    observers = {wish: wish[2].observer() for wish in wishes}
    forward = prepared(module.undecided())
    drawing = drawing_of(forward.clone(), map(_watched, wishes))
    with (
        opened(forward.model, drawing.signs, run) as running,
        opened(drawing.module.model, (), run) as session,
    ):
        draws = _Draws(drawing, running, session)
        done = 0
        for number, sample in enumerate(_samples(data, running)):
            blocks = draws.of(sample.feeds, number)
            for wish, observer in observers.items():
                observer.update(blocks[_watched(wish)])
            done += sample.rows
            on_progress(done)
    return _results(observers)


def _name(kind: Kind) -> str:
    return kind.name


def _watched(wish: tuple[str, int, Kind]) -> Watched:
    value, axis, kind = wish
    return Watched(value, axis, products=kind.gradients == "products")


def _samples(data: Data, session: Session) -> Iterator[Sized]:
    shapes = {spec.name: spec.shape for spec in session.inputs}
    for batch in trimmed(data.batches(), session):
        yield from one_by_one(batch, shapes)


def _results(observers: Mapping[tuple[str, int, Kind], Observer]) -> Parts:
    found: Parts = {}
    for (value, axis, kind), observer in observers.items():
        if (part := observer.result()) is not None:
            found.setdefault(value, {})[kind, axis if kind.by_channel else None] = part
    return found


@dataclass
class _Draws:
    """Draws squared gradients of samples."""

    drawing: Drawing
    running: Session
    session: Session
    tokens: dict[str, TokenAxes] = field(default_factory=dict)

    def of(self, feeds: Feeds, number: int) -> dict[Watched, Block]:
        """Return the rows of one sample, with the mean of their squared gradients over the draws."""
        values = self.running.run(feeds)
        real = {name: self._real(name, values, feeds) for name in self.drawing.signs}
        rows: dict[str, NDArray[Any]] = {}
        sums: dict[str, Float32] = {}
        for draw in range(DRAWS):
            signs = {
                given: real[name] * random_signs(real[name].shape, number * DRAWS + draw, seed=term)
                for term, (name, given) in enumerate(self.drawing.signs.items())
            }
            rows = self.session.run({**feeds, **signs})
            for _, squares in self.drawing.rows.values():
                sums[squares] = sums.get(squares, np.float32(0)) + rows[squares]
        return {
            one: _block(one, rows[values], sums[squares] / np.float32(DRAWS), number)
            for one, (values, squares) in self.drawing.rows.items()
        }

    def _real(self, name: str, values: Mapping[str, NDArray[Any]], feeds: Feeds) -> Float32:
        """Return an array of the shape of a value, 0 where it is padding."""
        keep = padding(feeds)
        if keep is None:
            return np.ones(values[name].shape, np.float32)
        if not self.tokens:
            shapes = {name: values[name].shape for name in self.drawing.signs}
            self.tokens = find_token_axes(self.running, feeds, shapes)
        return reality(values[name].shape, self.tokens[name], keep)


def _block(one: Watched, rows: Float32, squares: Float32, number: int) -> Block:
    if np.isnan(squares).any():
        raise CalibrationError(
            f"its gradient is NaN in sample {number}",
            where=f"value {one.value!r}",
            hint="choose a range method that asks for none",
        )
    return Block(rows[np.newaxis], -1, gradients=squares[np.newaxis])
