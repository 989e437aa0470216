"""Holding builds against their source as the end of a compilation does: whole outputs, and a task metric."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from onnxq.engine.score import Remembered
from onnxq.heap import make_room
from onnxq.runtime.batch import Batch
from onnxq.runtime.metrics import Metric
from onnxq.runtime.run import Run
from onnxq.runtime.seeded import open_comparable, random_operators
from onnxq.runtime.session import Session
from onnxq.runtime.validate import AccuracyReport, validate


@dataclass
class Judge:
    """Compares models with their source.

    Args:
        source: The original model.
        few: Some of the samples, for a first look; the source runs on them once.
        rest: Yields all of them, if there are more.
        missed: What a comparison shows to be below what is asked for; empty if nothing is.
        metric: A task metric, computed for both models.
        run: Where and how both run.

    """

    source: Path
    few: Sequence[Batch]
    rest: Callable[[], Iterable[Batch]] | None
    missed: Callable[[AccuracyReport], Sequence[str]]
    metric: Metric | None = None
    run: Run = field(default_factory=Run)

    def of(self, model: Path) -> tuple[AccuracyReport, Sequence[str]]:
        """Return how a model compares, and what it misses; all samples count where some show nothing.

        Raises:
            OnnxqError: It does not open or run.

        """
        report = validate(self._reference, self._opened(model), self.few, self.metric, self.run)
        if isinstance(self._reference, Remembered):
            self._reference = self._reference.without_model(self.few)
        missed = self.missed(report)
        if self.rest is not None and not missed:
            report = validate(self.source, model, self.rest(), self.metric, self.run)
            missed = self.missed(report)
        make_room()
        return report, missed

    def glance(self, model: Path) -> AccuracyReport:
        """Return how a model compares on the first batch, where more would tell nothing new."""
        return validate(self._reference, self._opened(model), self.few[:1], self.metric, self.run)

    def _opened(self, model: Path) -> Session | Path:
        """Return a session that keeps no memory between runs; random operators want one for each trial."""
        return model if random_operators(model) else open_comparable(model, self.run, arena=False)

    @cached_property
    def _reference(self) -> Session | Path:
        """What random operators draw goes on from run to run: such a source begins anew each time."""
        opened = self._opened(self.source)
        return opened if isinstance(opened, Path) else Remembered(**vars(opened))
