"""Training a graph on data: the samples with what the source makes of them, sessions, and checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.autodiff import prepared
from onnxq.autodiff.model import named_values, with_outputs
from onnxq.calibration.data import Batch, Dataset, open_feeds
from onnxq.engine.learning import open_graph
from onnxq.errors import DataError, ModelError
from onnxq.ir.module import GraphModule, attribute, is_standard, name_of
from onnxq.rewrite.edit import Editor
from onnxq.runtime.resident import Resident
from onnxq.runtime.run import Run
from onnxq.runtime.session import Session
from onnxq.training.augmentation import Varied
from onnxq.training.fitting import Check, Fitting, Plan, Samples
from onnxq.training.goals import Goal, Kind
from onnxq.training.learned import Gridded, Learned, Plain, Steps
from onnxq.training.network import LOSS, Network
from onnxq.training.oscillations import cures_of
from onnxq.training.pool import Part, Pool

Array = NDArray[Any]
Arrays = Mapping[str, Array]

TARGET = "target"

HELD_BACK = 10
"""Of so many batches one is not learned from where no other samples are given: it judges."""


def goals_of(module: GraphModule, kind: Kind) -> list[Goal]:
    """Return what a graph is trained for: all outputs of floats, or for ``cross-entropy`` the first.

    Raises:
        ModelError: There is no such output.

    """
    outputs = prepared(module.undecided()).graph.outputs
    floats = [value for value in outputs if value.dtype is not None and value.dtype.is_floating_point()]
    ends = list(dict.fromkeys(map(_looked_at, floats)))
    if not ends:
        raise ModelError("it has no output of floats, and nothing can be learned")
    chosen = ends[:1] if kind == "cross-entropy" else ends
    return [Goal(name_of(value), f"{TARGET}_{number}", kind) for number, value in enumerate(chosen)]


def _looked_at(output: ir.Value) -> ir.Value:
    """Return the logits that a Softmax of all classes reads; of every other output the output itself."""
    maker = output.producer()
    if maker is None or not is_standard(maker, "LogSoftmax", "Softmax") or maker.inputs[0] is None:
        return output
    lengths = tuple(output.shape or ())
    behind = lengths[attribute(maker, "axis", -1) % max(len(lengths), 1) + 1 :]
    return maker.inputs[0] if all(one == 1 for one in behind) else output


@dataclass(frozen=True)
class Teacher:
    """What says what outputs shall be: labels, or the graph as it was.

    Args:
        module: The graph before it is trained.
        goals: What is looked at.
        run: Where and how it runs.

    """

    module: GraphModule
    goals: Sequence[Goal]
    run: Run

    def parts(self, data: Dataset, labels: Array | None = None) -> Iterator[Part]:
        """Yield the batches of data with their targets; ``labels`` are those of all samples, in order.

        Raises:
            DataError: The data cannot be read, or has too few labels.

        """
        if self.goals[0].kind == "cross-entropy":
            for batch, own in _labelled(data, labels):
                classes = _classes(own, data.name)
                yield Part({**batch.feeds, **{goal.target: classes for goal in self.goals}}, batch.rows, own)
            return
        targets = self.targets()
        for batch, own in _labelled(data, labels):
            yield Part({**batch.feeds, **targets(batch.feeds)}, batch.rows, own)

    def targets(self) -> Callable[[Arrays], Arrays]:
        """Open the graph as it was, which says what outputs shall be of other inputs."""
        copy = prepared(self.module.undecided())
        ends = named_values(copy, [goal.value for goal in self.goals])
        session = open_graph(with_outputs(ends, Editor(copy)), self.run)

        def targets(feeds: Arrays) -> Arrays:
            found = session.run(feeds)
            return {goal.target: found[goal.value] for goal in self.goals}

        return targets

    def samples(self, pool: Pool, plan: Plan) -> Samples:
        """Return what is learned from: a pool, whose images change where a plan says so."""
        names = [goal.target for goal in self.goals]
        if not plan.varies:
            return pool
        again = None if self.goals[0].kind == "cross-entropy" else self.targets()
        return Varied(pool, plan.flip, plan.shift, names, again)


def _labelled(data: Dataset, labels: Array | None) -> Iterator[tuple[Batch, Array | None]]:
    """Yield batches with their own labels, or with those that are given for all samples."""
    seen = 0
    for batch in data.batches():
        own = batch.labels if labels is None else labels[seen : seen + batch.rows]
        if own is not None and len(own) < batch.rows:
            raise DataError(f"{len(own)} labels for {batch.rows} samples", where=data.name)
        seen += batch.rows
        yield batch, own


def judging_data(parts: Sequence[Part], goals: Sequence[Goal], data: Dataset) -> Dataset:
    """Return samples that were held back as data, to compare the result on."""
    targets = {goal.target for goal in goals}

    def batches() -> Iterator[Any]:
        for part in parts:
            feeds = {name: array for name, array in part.arrays.items() if name not in targets}
            yield feeds if part.labels is None else (feeds, part.labels)

    return open_feeds(f"{data.name}, held back", batches, data.inputs)


def _classes(labels: Array | None, where: str) -> NDArray[np.int64]:
    if labels is None:
        raise DataError(
            "it has no labels",
            where=where,
            hint="give --labels or --label-column, or learn from the model itself: --loss kl",
        )
    return labels.astype(np.int64)


def parted(parts: Sequence[Part]) -> tuple[list[Part], list[Part]]:
    """Return what is learned from, and what judges: every tenth batch, of few the last; of one the same."""
    if len(parts) == 1:
        return list(parts), list(parts)
    every = min(HELD_BACK, len(parts))
    judging = parts[every - 1 :: every]
    return [part for number, part in enumerate(parts) if number % every != every - 1], list(judging)


def learned_of(network: Network) -> list[Learned]:
    """Return what is learned of a network, as it is at first."""
    weights: list[Learned] = [
        Plain(name, one.array) if one.encoding is None else Gridded(name, one.array, one.encoding)
        for name, one in network.parameters.items()
    ]
    return weights + [Steps(name, one.offset, one.encoding) for name, one in network.grids.items()]


def fitting_of(
    network: Network,
    teacher: Teacher,
    parts: tuple[Sequence[Part], Sequence[Part]],
    plan: Plan,
    run: Run,
    fixed: Arrays = MappingProxyType({}),
) -> Fitting:
    """Open the sessions of a network that is to be trained.

    Args:
        network: What is trained.
        teacher: What says what for.
        parts: What is learned from, and what judges.
        plan: How it goes.
        run: Where and how it runs.
        fixed: What is fed besides, always the same.

    """
    learned = learned_of(network)
    kept = {**fixed, **{name: array for one in learned for name, array in one.fed.items()}}
    training, evaluation = (open_graph(one, run) for one in (network.training, network.evaluation))
    samples = teacher.samples(Pool(parts[0], plan.batch, plan.seed), plan)
    judge = _Judge(Resident(evaluation, _of(kept, evaluation)), teacher.goals, parts[1])
    model = Resident(training, _of(kept, training))
    return Fitting(plan, learned, samples, model.run, judge, cures_of(learned, plan.dampen, plan.freeze))


def _of(kept: Arrays, session: Session) -> dict[str, Array]:
    names = {spec.name for spec in session.inputs}
    return {name: array for name, array in kept.items() if name in names}


@dataclass(frozen=True)
class _Judge:
    model: Resident
    goals: Sequence[Goal]
    parts: Sequence[Part]

    def __call__(self, step: int) -> Check:
        """Return the mean loss, and which share of rows has the right class, if there are classes."""
        loss, rows, hits = 0.0, 0, []
        for part in self.parts:
            found = self.model.run(part.arrays)
            loss += float(found[LOSS]) * part.rows
            rows += part.rows
            hits.append(_hits(found, part, self.goals[0]))
        shares = np.concatenate(hits)
        return Check(step, loss / rows, float(shares.mean()) if shares.size else None)


def _hits(found: Arrays, part: Part, goal: Goal) -> Array:
    """Return for each row whether its class is the right one."""
    if goal.kind == "mse":
        return np.empty(0)
    end = _rows(found[next(name for name in found if name != LOSS)])
    target = part.arrays[goal.target]
    classes = target if goal.kind == "cross-entropy" else _rows(target).argmax(-1)
    return np.asarray(end.argmax(-1) == classes).reshape(-1)


def _rows(values: Array) -> Array:
    """Return an array with its classes along the last axis: see ``goals.has_no_classes_last``."""
    return values.reshape(len(values), -1) if values.shape[-1] == 1 else values
