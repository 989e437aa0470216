"""A model with switches beside its source: what each mixture of quantized values costs the outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from onnxq.engine.executor import beside_others
from onnxq.engine.score import Remembered
from onnxq.errors import called
from onnxq.rewrite.switches import SWITCHES, Edge
from onnxq.runtime.batch import Array, Batch, Feeds
from onnxq.runtime.gates import worst_db
from onnxq.runtime.run import Run
from onnxq.runtime.seeded import open_comparable
from onnxq.runtime.session import Session
from onnxq.runtime.validate import validate


@dataclass(frozen=True)
class _Switched(Session):
    """A session in which some switches are on."""

    switches: Array = field(default_factory=lambda: np.zeros(0, bool))

    def run(self, feeds: Feeds) -> dict[str, Any]:
        """Run with the switches as they are."""
        return super().run({**feeds, SWITCHES: self.switches})


@dataclass(frozen=True)
class Switchboard:
    """The source and its switched form, and the samples to compare them on.

    Args:
        source: The source.
        model: The form with switches; see ``insert_switches``.
        batches: The samples.
        edges: What the switches stand for.
        run: Where and how both run.

    """

    source: Path
    model: Path
    batches: Sequence[Batch]
    edges: Sequence[Edge]
    run: Run

    def elsewhere(self) -> Switchboard:
        """Return the same for another process, which opens both itself."""
        return Switchboard(self.source, self.model, self.batches, self.edges, beside_others(self.run))

    @cached_property
    def reference(self) -> Session:
        """The source, which runs once on each batch."""
        return Remembered(**vars(open_comparable(self.source, self.run)))

    @cached_property
    def switched(self) -> Session:
        """The model with switches."""
        with called(self.model, "the model with switches"):
            return open_comparable(self.model, self.run)

    def sqnr_db(self, chosen: Callable[[Edge], bool]) -> float:
        """Return the SQNR of the output that errs most, where the chosen edges are quantized."""
        switches = np.array([chosen(edge) for edge in self.edges])
        candidate = _Switched(**vars(self.switched), switches=switches)
        return worst_db(validate(self.reference, candidate, self.batches))
