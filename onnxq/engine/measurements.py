"""What was measured on one set of data, by what computes a value: nothing is measured twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from onnxq.calibration.collect import collect
from onnxq.calibration.data import Dataset
from onnxq.engine.cache import FactsCache
from onnxq.engine.samples import Kept
from onnxq.ir.fingerprint import fingerprints
from onnxq.ir.module import GraphModule, name_of
from onnxq.quant.facts import Facts, Need, joined, meets
from onnxq.runtime.run import Run

Progress = Callable[[int, int | None], None]


@dataclass
class Measurements:
    """Facts by fingerprint, of this run and of earlier ones.

    Args:
        data: What is measured on.
        threads: Threads within an operator; None leaves it to ONNX Runtime.
        cache: What earlier runs measured on the same data; None begins with nothing.
        on_progress: Called with (samples done, samples in all).
        streams: How often the data was run through a model.
        measured: How many values were measured.
        recalled: How many values an earlier run had measured.

    """

    data: Kept
    threads: int | None = None
    cache: FactsCache | None = None
    on_progress: Progress | None = None
    streams: int = field(default=0, init=False)
    measured: int = field(default=0, init=False)
    recalled: int = field(default=0, init=False)
    _known: dict[str, Facts] = field(default_factory=dict, init=False)

    @classmethod
    def on(cls, data: Dataset, threads: int | None, on_progress: Progress | None = None) -> Measurements:
        """Begin with what earlier runs measured on this data."""
        kept = Kept(data)
        cache = FactsCache.on(kept.digest(), kept.batch_size, threads)
        return cls(kept, threads, cache, on_progress)

    def of(self, module: GraphModule, needs: Sequence[Need]) -> dict[str, Facts]:
        """Return, by name, facts that meet ``needs``, measured on ``module`` as it stands where need be.

        Raises:
            CalibrationError: A value is NaN somewhere, or there is no data.
            OnnxqError: The data does not fit the model, or it does not run.

        """
        prints = _prints(module, {need.value for need in needs})
        self._recall(prints.values())
        missing = [need for need in needs if not self._meets(prints, need)]
        if missing:
            self._measure(module, missing, prints)
        return {name: self._known[print_] for name, print_ in prints.items() if print_ in self._known}

    def _meets(self, prints: Mapping[str, str], need: Need) -> bool:
        facts = self._known.get(prints.get(need.value, ""))
        return facts is not None and meets({need.value: facts}, need)

    def _recall(self, prints: Iterable[str]) -> None:
        unknown = {print_ for print_ in prints if print_ not in self._known}
        if self.cache is None or not unknown:
            return
        found = self.cache.recall(unknown)
        self.recalled += len(found)
        self._known.update(found)

    def _measure(self, module: GraphModule, needs: Sequence[Need], prints: Mapping[str, str]) -> None:
        """Measure each fingerprint once, under the first name that has it."""
        first = {print_: name for name, print_ in reversed(list(prints.items()))}
        named = [replace(need, value=first.get(prints.get(need.value, ""), need.value)) for need in needs]
        found = collect(
            module.model,
            dict.fromkeys(named),
            self.data,
            Run(threads=self.threads),
            on_progress=self._tell,
        ).facts
        self.streams += 1
        self.measured += len(found)
        new = {prints[name]: facts for name, facts in found.items()}
        self._known = joined(self._known, new)
        if self.cache is not None:
            self.cache.keep({print_: self._known[print_] for print_ in new})

    def _tell(self, done: int) -> None:
        if self.on_progress is not None:
            self.on_progress(done, self.data.samples)


def _prints(module: GraphModule, names: set[str]) -> dict[str, str]:
    """Return the fingerprints of the named values."""
    return {
        name_of(value): print_
        for value, print_ in fingerprints(module.model).items()
        if name_of(value) in names
    }
