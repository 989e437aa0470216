"""Timing prepared artifacts on a GPU: one row for each as soon as it is measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from cuda_cases import FP32, GRAPH_BATCHES, Feeds, Runs, runs, title, with_room
from cuda_prepared import Prepared, Record

from onnxq.errors import OnnxqError
from onnxq.runtime.bench import Spread, block_ms, schedule
from onnxq.runtime.bound import Once, prepared
from onnxq.runtime.kernels import kernel_report
from onnxq.runtime.run import PROVIDERS, Run
from onnxq.runtime.session import open_session

ROUNDS, BLOCK_SECONDS = 11, 0.02
FEWEST, MOST = 3, 40
"""How many runs are in a block: about as many as fit ``BLOCK_SECONDS``."""
PLAIN, GRAPH, PLACES = "", "CUDA graph", "places"
Bound = Callable[[Feeds], Once]
Todo = Callable[[Record], bool]
"""Tells whether a row is to be measured: it is not there yet, and there is time."""


@dataclass(frozen=True)
class Timer:
    """Times the artifacts of one model, each interleaved with fp32.

    Args:
        name: The model.
        records: Its artifacts, fp32 among them.
        source: Where they lie.
        folder: Where their models are written.
        todo: Whether a row is to be measured.

    """

    name: str
    records: Sequence[Record]
    source: Prepared
    folder: Path
    todo: Todo

    def times(self) -> Iterator[Record]:
        """Yield a row for each artifact and run; what fails is a row with its reason."""
        for record in self.records:
            yield from self._timed(record)

    def places(self) -> Iterator[Record]:
        """Yield a row for each artifact: which nodes did not run on CUDA."""
        for record in self.records:
            yield from self._wanted(record, next(iter(self._runs)), PLACES, partial(self._placed, record))

    def _timed(self, record: Record) -> Iterator[Record]:
        plain = cache(partial(self._open, record))
        replayed = {title(self.name, size) for size in GRAPH_BATCHES}
        for run, feeds in self._runs.items():
            yield from self._wanted(
                record, run, PLAIN, lambda feeds=feeds: self._times(record, plain(), feeds())
            )
            if run in replayed:
                graph = partial(self._open, record, graph=True)
                yield from self._wanted(
                    record, run, GRAPH, lambda feeds=feeds, graph=graph: self._times(record, graph(), feeds())
                )

    def _wanted(self, record: Record, run: str, form: str, measure: Callable[[], Record]) -> Iterator[Record]:
        row = {"model": self.name, "run": run, "artifact": record["artifact"], "form": form}
        if self.todo(row):
            yield row | _attempt(measure)

    def _times(self, record: Record, own: Bound, feeds: Feeds) -> Record:
        return interleaved(self._fp32(feeds), own(with_room(feeds, record.get("in_place", {}))))

    def _placed(self, record: Record) -> Record:
        feeds, entries = next(iter(self._runs.values()))(), record["session_options"]
        report = kernel_report(self._file(record), feeds, Run("cuda", entries=entries))
        away = Counter(node.op_type for node in report.misplaced(PROVIDERS["cuda"]))
        return {"nodes": len(report.nodes), "elsewhere": dict(away), "copies": len(report.copies)}

    @cached_property
    def _fp32(self) -> Bound:
        return self._open(next(one for one in self.records if one["artifact"] == FP32))

    @cached_property
    def _runs(self) -> Runs:
        return runs(self.name, quick=self.records[0]["quick"])

    def _open(self, record: Record, *, graph: bool = False) -> Bound:
        entries = record["session_options"]
        session = open_session(self._file(record), Run("cuda", entries=entries, cuda_graph=graph))
        return prepared(session, record.get("in_place", {}))

    def _file(self, record: Record) -> Path:
        """Return the artifact's model; all of them are written when the first is wanted, side by side."""
        if not self._path(record).exists():
            missing = [one for one in self.records if not self._path(one).exists()]
            with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
                list(pool.map(self.source.save, missing, map(self._path, missing)))
        return self._path(record)

    def _path(self, record: Record) -> Path:
        return self.folder / f"{record['file']}.onnx"


def _attempt(measure: Callable[[], Record]) -> Record:
    try:
        return measure()
    except OnnxqError as error:
        return {"failed": error.message}


def interleaved(base: Once, own: Once) -> Record:
    """Return the milliseconds of ``own``, and how many times faster than ``base`` it is.

    In a round each runs a block of times in a row and keeps the median, as ``onnxq bench`` does.
    """
    both = {"base": base, "own": own}
    counts = {name: _runs_in_a_block(once) for name, once in both.items()}
    times: dict[str, list[float]] = {name: [] for name in both}
    for order in schedule(list(both), ROUNDS):
        for name in order:
            times[name].append(_block_ms(both[name], counts[name]))
    spread = Spread.of(times["own"])
    faster = np.median(np.array(times["base"]) / times["own"])
    told = {"ms": spread.median, "p10": spread.p10, "p90": spread.p90, "over fp32": faster}
    return {key: round(float(value), 4) for key, value in told.items()}


def _runs_in_a_block(once: Once) -> int:
    _block_ms(once, FEWEST)
    return int(np.clip(BLOCK_SECONDS * 1e3 / _block_ms(once, FEWEST), FEWEST, MOST))


def _block_ms(once: Once, runs: int) -> float:
    """Return the median milliseconds of some runs in a row, on feeds that lie on the device already."""
    return block_ms(lambda feeds: once, {}, runs)
