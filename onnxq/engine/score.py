"""How far a build is from its source: the errors of its outputs on some samples."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from onnxq.calibration.masks import MASK_INPUT
from onnxq.calibration.trimming import trimmed
from onnxq.engine.executor import beside_others
from onnxq.heap import make_room
from onnxq.ir.module import GraphModule
from onnxq.ir.store import output_files, write_model
from onnxq.runtime.batch import Batch, Feeds
from onnxq.runtime.compare import OutputAccuracy
from onnxq.runtime.run import Run
from onnxq.runtime.seeded import open_comparable, random_operators
from onnxq.runtime.session import Session
from onnxq.runtime.validate import validate

MOST_BYTES = 256 << 20
"""So much of a model's inputs and outputs is remembered; the rest is computed again."""


@dataclass(frozen=True)
class Errors:
    """How far the outputs lie from the source's.

    Args:
        noise: Power of the error, as a part of the power of the source's outputs, in the mean over the
            outputs; infinite where they are no numbers but the source's are.
        largest: The largest error of an output, as a part of that output's largest value.

    """

    noise: float
    largest: float


@dataclass(frozen=True)
class Remembered(Session):
    """A session that runs the same feeds once, as long as they and its results are small."""

    seen: dict[int, tuple[Feeds, dict[str, Any]]] = field(default_factory=dict)

    def run(self, feeds: Feeds) -> dict[str, Any]:
        """Return what the first run on these feeds gave."""
        if id(feeds) in self.seen:
            return self.seen[id(feeds)][1]
        results = super().run(feeds)
        if (len(self.seen) + 1) * (_bytes(feeds) + _bytes(results)) <= MOST_BYTES:
            self.seen[id(feeds)] = feeds, results  # feeds that stay alive keep their number
        return results

    def without_model(self, samples: Iterable[Batch]) -> Remembered:
        """Return what knows the results by heart, if all samples' are remembered; else itself."""
        known = all(id(batch.feeds) in self.seen for batch in samples)
        return replace(self, inference=None) if known else self


@dataclass
class Score:
    """Compares builds with their source on the same samples.

    Args:
        source: The original model.
        batches: Yields the samples; the same objects each time.
        run: Where and how both run.

    """

    source: Path
    batches: Callable[[], Iterable[Batch]]
    run: Run = Run()
    _known: dict[bytes, Errors] = field(default_factory=dict, init=False, repr=False)

    def errors(self, module: GraphModule) -> Errors:
        """Return the errors of a build, which is written to a temporary folder; of equal ones, one runs.

        Raises:
            OnnxqError: It does not open or run.

        """
        with TemporaryDirectory(prefix="onnxq-score-") as folder:
            *_, path = files = output_files(module, Path(folder, "tried.onnx"))
            write_model(module, files)
            content = b"".join(map(_digest, files))
            if content not in self._known:
                self._known[content] = self.errors_of(path)
            return self._known[content]

    def errors_of(self, path: Path) -> Errors:
        """Return the errors of a model in a file."""
        outputs = validate(self._reference, path, self._samples(), run=self.run).outputs
        if isinstance(self._reference, Remembered):
            self._reference = self._reference.without_model(self._samples())
        make_room()
        return Errors(sum(map(_noise, outputs)) / len(outputs), max(map(_largest, outputs)))

    def elsewhere(self) -> Score:
        """Return the same for another process, which holds the samples."""
        return Score(self.source, list(self.batches()).__iter__, beside_others(self.run))

    def _samples(self) -> Iterable[Batch]:
        """Return the same objects each time, without padding."""
        return self.batches() if self._trimmed is None else self._trimmed

    @cached_property
    def _trimmed(self) -> list[Batch] | None:
        """The samples of text, one by one; they are small. None for others."""
        first = next(iter(self.batches()), None)
        if first is None or MASK_INPUT not in first.feeds or not isinstance(self._reference, Session):
            return None
        return list(trimmed(self.batches(), self._reference))

    @cached_property
    def _reference(self) -> Session | Path:
        """What random operators draw goes on from run to run: such a source begins anew with each trial."""
        if random_operators(self.source):
            return self.source
        return Remembered(**vars(open_comparable(self.source, self.run)))


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _bytes(arrays: Mapping[str, Any]) -> int:
    return sum(array.nbytes for array in arrays.values() if isinstance(array, np.ndarray))


def _noise(output: OutputAccuracy) -> float:
    """Return the error of one output; where there are no floats, the share of other values.

    What is NaN or infinite in the source counts for nothing; where it is a number there and none here, the
    error is infinite.
    """
    if output.new_non_finite:
        return math.inf
    if output.sqnr_db is not None:
        return float(10 ** (-output.sqnr_db / 10))
    return 0.0 if output.equal is None else 1 - output.equal


def _largest(output: OutputAccuracy) -> float:
    """Return the largest error of one output as a part of its largest value; none if there are no floats."""
    if output.new_non_finite:
        return math.inf
    return output.max_abs / output.scale if output.max_abs and output.scale else 0.0
