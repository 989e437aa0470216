"""Whether a sample gets the same result alone, padded, and in a batch.

Activations quantized at run time take their scale from everything in the batch, so that neighbours and
padding move a sample's result. Static artefacts must not do that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxq.errors import DataError, ToleranceError
from onnxq.runtime.batch import Array, Feeds, batch_size
from onnxq.runtime.compare import plain
from onnxq.runtime.run import Run
from onnxq.runtime.session import Session, ValueSpec, open_session
from onnxq.runtime.validate import MASK

ROUNDING = 1e-5
"""How much of the largest value float kernels may move a result by summing in another order.

They choose blocks by the number of rows. A sum of K float32 terms then moves by about sqrt(K) units of
2**-24, 4e-6 for K = 4096; a little more than twice that is allowed. Integer kernels are exact in any order.
"""


@dataclass(frozen=True)
class OutputInvariance:
    """How far one output moves.

    Args:
        name: The output.
        batch: Largest absolute difference between a sample alone and in the batch, both with its padding.
        padding: The same between a sample alone with and without padding; None if none could be cut.
        scale: Largest absolute value of the batch's result, to judge these by.

    """

    name: str
    batch: float
    padding: float | None
    scale: float

    @property
    def tolerance(self) -> float:
        """What rounding alone may move it by."""
        return ROUNDING * self.scale

    @property
    def worst(self) -> float:
        """The larger of the two differences."""
        return max(self.batch, self.padding or 0.0)

    @property
    def verdict(self) -> str:
        """``identical``, ``rounding`` or ``moves``."""
        return "identical" if self.worst == 0 else "rounding" if self.worst <= self.tolerance else "moves"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return dict(plain({**asdict(self), "tolerance": self.tolerance, "verdict": self.verdict}))


@dataclass(frozen=True)
class InvarianceReport:
    """What ``check_invariance`` found.

    Args:
        model: The file.
        samples: How many samples the batch had.
        padded: How many of them could be run without their padding.
        outputs: One entry for each output of numbers that has a row for each sample.

    """

    model: str
    samples: int
    padded: int
    outputs: tuple[OutputInvariance, ...]

    @property
    def holds(self) -> bool:
        """Whether no output moves by more than rounding."""
        return all(output.verdict != "moves" for output in self.outputs)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        outputs = [output.to_dict() for output in self.outputs]
        return {**asdict(self), "outputs": outputs, "holds": self.holds}


def check_invariance(model: Session | Path, feeds: Feeds, run: Run = Run()) -> InvarianceReport:
    """Run the samples of ``feeds`` together, one by one, and one by one without their padding.

    Padding is what stands behind the last one of a row of ``attention_mask``, of shape (N, T); it is cut
    from all inputs of that shape. Results are compared where no padding is.

    Args:
        model: The model: a file, or a session that is open already.
        feeds: One batch of at least two samples.
        run: Where and how a model runs that is given as file; without a CUDA graph, as shapes differ.

    Raises:
        DataError: There are fewer than two samples, or the model's batch size is fixed.
        ModelError: The model does not load or run.

    """
    session = open_session(model, run.without_graph) if isinstance(model, Path) else model
    chosen = session.select(feeds)
    samples = batch_size(chosen)
    _need_a_batch(session, samples)
    together = session.run(chosen)
    differences = _Differences({name: value for name, value in together.items() if _has_rows(value, samples)})
    padded = 0
    for index in range(samples):
        single = {name: array[index : index + 1] for name, array in chosen.items()}
        alone = session.run(single)
        differences.add_batch(index, alone, _length(single.get(MASK)))
        cut = _without_padding(single, session.inputs)
        if cut is not None:
            differences.add_padding(alone, session.run(cut))
            padded += 1
    return InvarianceReport(session.source, samples, padded, tuple(differences.results()))


def require_invariance(report: InvarianceReport) -> None:
    """Raise if an output moves.

    Raises:
        ToleranceError: It names the output that moves furthest for its size.

    """
    if not report.holds:
        output = max(report.outputs, key=lambda one: one.worst / (one.scale or 1.0))
        raise ToleranceError(
            f"a sample's result moves by {output.worst:.3g} with its batch or its padding; rounding explains "
            f"{output.tolerance:.2g}",
            where=f"{report.model}: output {output.name!r}",
            hint="activations quantized at run time do that: compile with --data for static ones",
        )


class _Differences:
    """The largest differences so far, for each output of the batch's result."""

    def __init__(self, together: Mapping[str, Array]) -> None:
        self.together = together
        self.batch = dict.fromkeys(together, 0.0)
        self.padding: dict[str, float] = {}

    def add_batch(self, index: int, alone: Mapping[str, Array], length: int | None) -> None:
        """Compare one sample's result with its row in the batch, but for the tokens that are padding."""
        for name, rows in self.together.items():
            tokens = slice(length if rows.ndim > 2 else None)
            row, other = (one[:, tokens] if one.ndim > 1 else one for one in (rows, alone[name]))
            found = _difference(row[index : index + 1], other)
            self.batch[name] = max(self.batch[name], found)

    def add_padding(self, alone: Mapping[str, Array], cut: Mapping[str, Array]) -> None:
        """Compare one sample's results with and without padding, where both have a value."""
        for name in self.together:
            common = tuple(slice(size) for size in cut[name].shape)
            found = _difference(alone[name][common], cut[name])
            self.padding[name] = max(self.padding.get(name, 0.0), found)

    def results(self) -> Iterator[OutputInvariance]:
        """Yield what was found, output by output."""
        for name, rows in self.together.items():
            finite = rows[np.isfinite(rows)]
            scale = float(np.max(np.abs(finite), initial=0.0))
            yield OutputInvariance(name, self.batch[name], self.padding.get(name), scale)


def _need_a_batch(session: Session, samples: int) -> None:
    fixed = [spec for spec in session.inputs if spec.shape and isinstance(spec.shape[0], int)]
    if fixed:
        raise DataError(
            f"its batch size is fixed at {fixed[0].shape[0]}, so that no sample runs alone and with others",
            where=f"{session.source}: input {fixed[0].name!r}",
        )
    if samples < 2:
        raise DataError("one sample is no batch", where=session.source, hint="give --batch-size 2 or more")


def _has_rows(value: Any, samples: int) -> bool:
    numbers = isinstance(value, np.ndarray) and value.dtype.kind in "fiub"
    return numbers and value.ndim > 0 and len(value) == samples


def _length(mask: Array | None) -> int | None:
    """Return how many positions remain of one sample without its padding at the end."""
    if mask is None or mask.ndim != 2 or not np.any(mask):
        return None
    return int(np.flatnonzero(mask[0])[-1]) + 1


def _without_padding(single: Feeds, inputs: tuple[ValueSpec, ...]) -> dict[str, Array] | None:
    """Return the sample without padding, or None if it has none or the model's length is fixed."""
    mask = single.get(MASK)
    length = _length(mask)
    if mask is None or length is None or length == mask.shape[1]:
        return None
    tokens = {spec.name: spec.shape for spec in inputs if single[spec.name].shape == mask.shape}
    if any(shape and isinstance(shape[1], int) for shape in tokens.values()):
        return None
    return {name: array[:, :length] if name in tokens else array for name, array in single.items()}


def _difference(first: Array, second: Array) -> float:
    """Return the largest absolute difference; equal infinities and two NaNs do not differ, shapes do."""
    if first.shape != second.shape:
        return float("inf")
    same = np.equal(first, second) | (np.not_equal(first, first) & np.not_equal(second, second))
    if same.all():
        return 0.0
    return float(np.max(np.abs(first.astype(np.float64) - second.astype(np.float64))[~same]))
