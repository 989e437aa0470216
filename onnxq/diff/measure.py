"""Errors and times of aligned parts, from running both models on the same data."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from onnxq.diff.align import Alignment
from onnxq.diff.changes import Change
from onnxq.diff.flat import Flat
from onnxq.diff.result import TensorError
from onnxq.errors import DataError
from onnxq.ir.module import name_of
from onnxq.manifest import session_options_beside
from onnxq.runtime.batch import Array, Batch, Feeds, batch_size
from onnxq.runtime.compare import FloatComparison, OutputAccuracy
from onnxq.runtime.fallback import refuse_fallback
from onnxq.runtime.kernels import KernelReport, kernel_report
from onnxq.runtime.run import Run
from onnxq.runtime.session import Session, open_session
from onnxq.runtime.validate import MASK

OBSERVED = (
    "inner values are read as extra outputs, which keeps ONNX Runtime from fusing across them: "
    "errors are those of the graph as written"
)


@dataclass(frozen=True)
class Running:
    """The models and how they are run, each with the session entries that its manifest asks for.

    Args:
        before: The file of the first model.
        after: That of the second.
        run: Where and how.
        allow_fallback: Names of nodes, or operators, that may run elsewhere.

    """

    before: Path
    after: Path
    run: Run = field(default_factory=Run)
    allow_fallback: Collection[str] = ()

    def of(self, path: Path) -> Run:
        """Return where and how one of the models runs."""
        return self.run.with_defaults(session_options_beside(path))


def measure_errors(
    found: Alignment, changes: Sequence[Change], running: Running, batches: Iterable[Batch]
) -> tuple[int, tuple[TensorError, ...]]:
    """Compare every aligned float value; return the number of samples too.

    All inner values of one batch are in memory at a time, twice.

    Raises:
        DataError: There is no batch, or it does not fit.
        ModelError: A model does not load or run.

    """
    pairs = _comparable(found, changes)
    first, second = (
        _observing(path, [name_of(pair[side]) for pair in pairs.values()], running)
        for side, path in enumerate((running.before, running.after))
    )
    comparisons = {place: FloatComparison(name_of(pair[0])) for place, pair in pairs.items()}
    samples = 0
    for batch in batches:
        ours, theirs = (session.run(_fed(session, batch.feeds, first)) for session in (first, second))
        size = batch_size(batch.feeds)
        samples += size
        for place, (value, other) in pairs.items():
            one, another = ours[name_of(value)], theirs[name_of(other)]
            if one.shape == another.shape:
                comparisons[place].update(one, another, _kept(batch.feeds, one), size)
    if not samples:
        raise DataError("there is no data to compare on", hint="give at least one batch")
    return samples, tuple(_errors(found, changes, comparisons))


def measure_times(
    found: Alignment, changes: Sequence[Change], running: Running, feeds: Feeds
) -> tuple[dict[int, float], dict[int, float], tuple[float, float]]:
    """Return the microseconds of each change in both models, and the shares of time that belong to none.

    Raises:
        TargetError: The provider is missing, or nodes ran on another.
        ModelError: A model does not load or run.

    """
    times, untraced = [], []
    for side, (flat, path) in enumerate(((found.before, running.before), (found.after, running.after))):
        owners = _owners(changes, side)
        session_feeds = _by_position(feeds, [name_of(value) for value in flat.inputs])
        report = kernel_report(path, session_feeds, running.of(path))
        refuse_fallback(path.name, report, running.allow_fallback)
        spent, lost = _spent(report, owners)
        times.append(spent)
        untraced.append(lost)
    return times[0], times[1], (untraced[0], untraced[1])


def _comparable(found: Alignment, changes: Sequence[Change]) -> dict[int, tuple[ir.Value, ir.Value]]:
    """Return the values of changes that both main graphs compute in floats."""
    pairs = {}
    for place, change in enumerate(changes):
        value, other = change.value, change.counterpart
        if value is None or other is None or not (change.before and change.after):
            continue
        if _observable(found.before, value) and _observable(found.after, other):
            pairs[place] = (value, other)
    return pairs


def _observable(flat: Flat, value: ir.Value) -> bool:
    node = value.producer()
    known = value.dtype is None or value.dtype.is_floating_point()
    return known and bool(value.name) and node is not None and node.graph is flat.model.graph


def _observing(path: Path, names: Sequence[str], running: Running) -> Session:
    return open_session(path, running.of(path).without_graph, extra_outputs=list(dict.fromkeys(names)))


def _fed(session: Session, feeds: Feeds, reference: Session) -> Feeds:
    """Return the feeds under the names of this session's inputs."""
    return _by_position(feeds, [one.name for one in session.inputs], [one.name for one in reference.inputs])


def _by_position(feeds: Feeds, names: Sequence[str], reference: Sequence[str] | None = None) -> Feeds:
    if set(names) <= set(feeds):
        return feeds
    return dict(zip(names, (feeds[name] for name in reference or list(feeds)), strict=False))


def _kept(feeds: Feeds, array: Array) -> Array | None:
    """Return which of the first two axes' positions are no padding; None where they do not count tokens."""
    mask = feeds.get(MASK)
    if mask is None or mask.ndim != 2 or array.ndim < 3 or array.shape[:2] != mask.shape:
        return None
    return np.not_equal(mask, 0)


def _errors(
    found: Alignment, changes: Sequence[Change], comparisons: Mapping[int, FloatComparison]
) -> Iterable[TensorError]:
    results = {place: one.result() for place, one in comparisons.items() if one.compared}
    by_value = {changes[place].value: result for place, result in results.items()}
    for place, result in results.items():
        change = changes[place]
        ratios = [_sqnr(by_value[value]) for value in _borders(found, change) if value in by_value]
        before = min(ratios, default=math.inf)
        own = _sqnr(result)
        yield TensorError(
            change=place,
            value=name_of(change.value),
            counterpart=name_of(change.counterpart),
            cosine=result.cosine,
            sqnr_db=own,
            max_abs=result.max_abs,
            scale=result.scale,
            input_sqnr_db=before,
            entered_db=before - own if math.isfinite(before) else None,
        )


def _sqnr(result: OutputAccuracy) -> float:
    return math.inf if result.sqnr_db is None else result.sqnr_db


def _borders(found: Alignment, change: Change) -> list[ir.Value]:
    """Return the aligned values that the nodes before read."""
    read = (value for node in change.before for value in node.inputs if value is not None)
    return [value for value in dict.fromkeys(read) if value in found.values and value is not change.value]


def _owners(changes: Sequence[Change], side: int) -> dict[str, int]:
    """Return the change that each value and node belongs to, by name: the first that has it."""
    owners: dict[str, int] = {}
    for place, change in enumerate(changes):
        for node in (change.before, change.after)[side]:
            for name in (*(name_of(value) for value in node.outputs), node.name or ""):
                owners.setdefault(name, place)
    owners.pop("", None)
    return owners


def _spent(report: KernelReport, owners: Mapping[str, int]) -> tuple[dict[int, float], float]:
    spent: dict[int, float] = {}
    lost = 0.0
    for node in report.nodes:
        known = [owners[name] for name in (*node.outputs, node.name) if name in owners]
        if known:
            spent[known[0]] = spent.get(known[0], 0.0) + node.microseconds
        else:
            lost += node.share
    return spent, lost
