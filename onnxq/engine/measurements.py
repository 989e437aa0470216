"""What was measured on one set of data, by what computes a value: nothing is measured twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

from onnxq.calibration.collect import collect
from onnxq.calibration.data import Dataset
from onnxq.calibration.table import LEFT_OUT
from onnxq.engine.cache import FactsCache
from onnxq.engine.known import Prints, asked, parted, prints_of, unmet
from onnxq.engine.samples import Half, Kept
from onnxq.errors import CalibrationError
from onnxq.heap import trim
from onnxq.ir.module import GraphModule
from onnxq.progress import Progress, quiet, steps_of
from onnxq.quant.facts import Facts, Need, joined
from onnxq.runtime.run import Run


@dataclass
class Tally:
    """What measuring took.

    Args:
        streams: How often data was run through a model.
        measured: How many values were measured.
        recalled: How many values an earlier run had measured.

    """

    streams: int = 0
    measured: int = 0
    recalled: int = 0


@dataclass
class Measurements:
    """Facts by fingerprint, of this run and of earlier ones.

    Args:
        data: What is measured on.
        threads: Threads within an operator; None leaves it to ONNX Runtime.
        progress: Told how many samples are read, and measured.
        tally: What it took so far, on other data too where they share it.

    """

    data: Kept
    threads: int | None = None
    progress: Progress = quiet
    tally: Tally = field(default_factory=Tally)
    _known: dict[str, Facts] = field(default_factory=dict, init=False)

    @classmethod
    def on(cls, data: Dataset, threads: int | None, progress: Progress = quiet) -> Measurements:
        """Begin with what earlier runs measured on this data."""
        return cls(Kept(data), threads, progress)

    @cached_property
    def _cache(self) -> FactsCache | None:
        """What is remembered of this data, which is read for it; None where nothing is."""
        digest = self.data.digest(steps_of(self.progress, "reading data"))
        return FactsCache.on(digest, self.data.batch_size, self.threads)

    @property
    def facts(self) -> Mapping[str, Facts]:
        """What is known so far, by fingerprint."""
        return self._known

    def on_half(self, first: int) -> Measurements:
        """Return what measures on every second batch alone, and shares the tally."""
        return Measurements(Half(self.data, first), self.threads, self.progress, self.tally)

    def require(self, digest: str) -> None:
        """Require the data that a table was collected on, whose digest is given.

        Raises:
            CalibrationError: This is other data.

        """
        if digest != self.data.digest():
            raise CalibrationError(
                "the table lacks some ranges, and this is not the data that it was collected on",
                where=f"data {self.data.data.name}",
                hint="give the same data and number of samples, or leave the table out",
            )

    @contextmanager
    def kept_when_interrupted(self) -> Iterator[None]:
        """Let an interrupt of the block say how much of what it measured the next run finds again.

        Raises:
            KeyboardInterrupt: The block was interrupted.

        """
        try:
            yield
        except KeyboardInterrupt as stop:
            if self.tally.measured == 0 or self._cache is None:
                raise
            raise KeyboardInterrupt(f"{_values(self.tally.measured)} kept for the next run") from stop

    def of(self, module: GraphModule, needs: Sequence[Need]) -> dict[str, Facts]:
        """Return, by name, facts that meet ``needs``, measured on ``module`` as it stands where need be.

        They hold what is asked for and nothing else, whatever earlier runs have measured.

        Raises:
            CalibrationError: A value is NaN somewhere, or there is no data.
            OnnxqError: The data does not fit the model, or it does not run.

        """
        prints = prints_of(module, needs)
        self._recall(prints.values())
        if missing := unmet(self._known, prints, needs):
            self._measure(module, missing, prints)
        return asked(self._known, prints, needs)

    def let_go(self) -> None:
        """Forget what no table holds: it is large, and measured again if it is asked for again."""
        self._known = {print_: facts.without(LEFT_OUT) for print_, facts in self._known.items()}

    def _recall(self, prints: Iterable[str]) -> None:
        unknown = {print_ for print_ in prints if print_ not in self._known}
        if self._cache is None or not unknown:
            return
        found = self._cache.recall(unknown)
        self.tally.recalled += len(found)
        self._known.update(found)

    def _measure(self, module: GraphModule, needs: Sequence[Need], prints: Prints) -> None:
        """Measure each fingerprint once, under the first name that has it."""
        first = {print_: name for (name, _), print_ in reversed(list(prints.items()))}
        named = {
            replace(need, value=first.get(prints.get(subject, ""), need.value)): prints.get(subject, "")
            for need, subject in parted(needs)
        }
        self._tell(0)
        found = collect(
            module.model, named, self.data, Run(threads=self.threads), on_progress=self._tell
        ).facts
        trim()
        self.tally.streams += 1
        self.tally.measured += len(found)
        new: dict[str, Facts] = {}
        for need, print_ in named.items():
            new = joined(new, {print_: found[need.value].only(need.places)})
        self._known = joined(self._known, new)
        if self._cache is not None:
            self._cache.keep({print_: self._known[print_] for print_ in new})

    def _tell(self, done: int) -> None:
        self.progress("calibrating", done, self.data.samples)


def _values(count: int) -> str:
    return "1 value that was measured is" if count == 1 else f"{count} values that were measured are"
