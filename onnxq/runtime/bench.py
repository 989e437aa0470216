"""Time models side by side: all in one process, interleaved round by round."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from onnxq.errors import DataError
from onnxq.progress import Progress, quiet
from onnxq.runtime.batch import Feeds, batch_size
from onnxq.runtime.bound import Once, prepared
from onnxq.runtime.compare import plain
from onnxq.runtime.fallback import refuse_fallback
from onnxq.runtime.footprint import Footprint, footprint, size_on_disk
from onnxq.runtime.kernels import KernelReport, kernel_report
from onnxq.runtime.run import Provider, Run
from onnxq.runtime.session import open_session
from onnxq.shown import Shown

FEWEST_ROUNDS = 5
SHORTEST_BLOCK, LONGEST_BLOCK = 3, 200
STILL = {"session.force_spinning_stop": "1"}
"""With this entry a session's idle threads do not spin while another one is timed."""

Shapes = tuple[tuple[str, tuple[int, ...]], ...]
T = TypeVar("T")
Prepared = Mapping[str, Callable[[Feeds], Once]]
"""By model, what makes of feeds a function that runs the model once on them."""


@dataclass(frozen=True)
class Timing:
    """How long to time.

    Args:
        rounds: At most so many; at least five of them whatever the seconds.
        warmup: Blocks of one run that each model does before, untimed.
        seconds: About how long the rounds may take.
        memory: Whether to open each model once more in a fresh process for its footprint.
        block_ms: How long one model runs in one round, three runs at least, so that its weights are back in
            the caches.

    """

    rounds: int = 30
    warmup: int = 3
    seconds: float = 20.0
    memory: bool = True
    block_ms: float = 30.0


WARM_MS = 100.0
"""After so long a run the model is warm."""


@dataclass(frozen=True)
class Spread:
    """A median with the tenth and the ninetieth percentile."""

    median: float
    p10: float
    p90: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of some numbers, at least one."""
        p10, median, p90 = np.percentile(np.asarray(values, np.float64), [10, 50, 90])
        return cls(float(median), float(p10), float(p90))


@dataclass(frozen=True)
class ModelLatency:
    """What one model took.

    Args:
        name: What the caller calls it.
        path: Its file.
        latency_ms: Milliseconds for one run, over the rounds.
        speedup: The first model's median over this one's: above 1 is faster.
        paired_speedup: The same ratio within each round, where slow drift of the machine
            cancels, with its spread over the rounds.
        rounds_ms: The latency of every round, in order.
        size_bytes: On disk, with external data.
        footprint: Memory and opening time in a process of its own; None if not measured.
        kernels: What ran, and where.

    """

    name: str
    path: Path
    latency_ms: Spread
    speedup: float
    paired_speedup: Spread
    rounds_ms: tuple[float, ...] = field(repr=False)
    size_bytes: int
    footprint: Footprint | None
    kernels: KernelReport = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {**asdict(self), "path": str(self.path), "kernels": self.kernels.to_dict()}


@dataclass(frozen=True)
class LatencyReport(Shown):
    """Several models, timed side by side.

    Args:
        provider: The provider that was asked for; every model ran on it.
        threads: Threads within an operator; None if ONNX Runtime chose.
        rounds: How many rounds were timed.
        block: How many runs in a row gave one number of a round, their median; by model.
        shapes: Names and shapes of the feeds that were used, in order, each listed once.
        batch_sizes: Their numbers of samples.
        sequence_lengths: The second axes of their token ids and the like.
        models: The models, the first being what the others are compared with.

    """

    provider: Provider
    threads: int | None
    rounds: int
    block: Mapping[str, int]
    shapes: tuple[Shapes, ...]
    batch_sizes: tuple[int, ...]
    sequence_lengths: tuple[int, ...]
    models: tuple[ModelLatency, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return dict(
            plain(
                {
                    "provider": self.provider,
                    "threads": self.threads,
                    "rounds": self.rounds,
                    "block": dict(self.block),
                    "shapes": [dict(shapes) for shapes in self.shapes],
                    "batch_sizes": self.batch_sizes,
                    "sequence_lengths": self.sequence_lengths,
                    "models": [model.to_dict() for model in self.models],
                }
            )
        )


def bench(
    models: Mapping[str, Path],
    feeds: Sequence[Feeds],
    run: Run = Run(threads=1),
    timing: Timing = Timing(),
    *,
    source: Path | None = None,
    entries: Mapping[str, Mapping[str, str]] | None = None,
    allow_fallback: Collection[str] = (),
    on_progress: Progress = quiet,
) -> LatencyReport:
    """Time ``models`` side by side on the same feeds.

    In a round each model runs a block of times in a row and keeps the median; the models' order turns
    from round to round. On a GPU all stays on the device, and a run ends when the device has ended it.

    Args:
        models: Files by name; the first is what the others are compared with.
        feeds: Round n uses feeds n, from the start when they are used up.
        run: Where and how all run; a model with nodes elsewhere is refused. All feeds of a CUDA graph are of
            one shape.
        timing: How long to time, and what besides.
        source: What all models were made from, for their kernels to be told by its layers.
        entries: More session configuration entries of single models, by name, where ``run`` has no other.
        allow_fallback: Names of nodes, or operators, that may run elsewhere.
        on_progress: Told of profiling, of the rounds, and of measuring memory.

    Raises:
        DataError: There are no feeds or no models, or the feeds do not fit a model.
        ModelError: A model does not load or run.
        TargetError: The provider is missing, or nodes ran on another.

    """
    if not feeds or not models:
        raise DataError("there is nothing to time", hint="give at least one model and one batch of data")
    runs = {name: run.with_defaults((entries or {}).get(name, {})) for name in models}
    kernels = {}
    for name, path in _counted(models, "profiling", on_progress):
        kernels[name] = kernel_report(path, feeds[0], runs[name], source=source)
        refuse_fallback(name, kernels[name], allow_fallback)
    on_progress("timing", 0, timing.rounds)
    runs = {name: one.with_defaults(STILL) for name, one in runs.items()}
    blocks, times = _timed(models, feeds, runs, timing, on_progress)
    prints: dict[str, Footprint] = {}
    if timing.memory:
        for name, path in _counted(models, "measuring memory", on_progress):
            prints[name] = footprint(path, feeds[0], runs[name])
    latencies = [_latency(name, models[name], times, prints.get(name), kernels[name]) for name in models]
    return _report(run, blocks, feeds, latencies)


def _timed(
    models: Mapping[str, Path],
    feeds: Sequence[Feeds],
    runs: Mapping[str, Run],
    timing: Timing,
    on_progress: Progress,
) -> tuple[dict[str, int], dict[str, list[float]]]:
    """Open all models; return how many runs fill a block of each, and its milliseconds in each round."""
    sessions = {name: prepared(open_session(path, runs[name])) for name, path in models.items()}
    blocks = {name: _warmed_block(session, feeds[0], timing) for name, session in sessions.items()}
    count = _affordable(sessions, feeds[0], blocks, timing)
    return blocks, _rounds(sessions, feeds, blocks, count, on_progress)


def _counted(models: Mapping[str, Path], phase: str, on_progress: Progress) -> Iterator[tuple[str, Path]]:
    """Yield names and models, and tell how many are done."""
    for done, named in enumerate(models.items()):
        on_progress(phase, done, len(models))
        yield named
    on_progress(phase, len(models), len(models))


def _report(
    run: Run,
    block: Mapping[str, int],
    feeds: Sequence[Feeds],
    models: Sequence[ModelLatency],
) -> LatencyReport:
    rounds = len(models[0].rounds_ms)
    used = feeds[:rounds]
    return LatencyReport(
        provider=run.provider,
        threads=run.threads,
        rounds=rounds,
        block=block,
        shapes=_distinct(_shapes(one) for one in used),
        batch_sizes=_distinct(batch_size(one) for one in used),
        sequence_lengths=_distinct(length for one in used for length in _sequence_lengths(one)),
        models=tuple(models),
    )


def _rounds(
    sessions: Prepared,
    feeds: Sequence[Feeds],
    blocks: Mapping[str, int],
    count: int,
    on_progress: Progress,
) -> dict[str, list[float]]:
    """Return one latency in milliseconds for each model and round."""
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for number, order in enumerate(schedule(list(sessions), count)):
        for name in order:
            times[name].append(block_ms(sessions[name], feeds[number % len(feeds)], blocks[name]))
        on_progress("timing", number + 1, count)
    return times


def schedule(names: Sequence[str], rounds: int) -> Iterator[Sequence[str]]:
    """Give the order of the models for each round: forward, backward, forward, and so on."""
    for number in range(rounds):
        yield names if number % 2 == 0 else names[::-1]


def _warmed_block(session: Callable[[Feeds], Once], feeds: Feeds, timing: Timing) -> int:
    """Warm a model up, and return how many runs fill a block."""
    one_ms = warmed_ms(session, feeds, timing.warmup)
    return int(np.clip(timing.block_ms / one_ms, SHORTEST_BLOCK, LONGEST_BLOCK))


def warmed_ms(session: Callable[[Feeds], Once], feeds: Feeds, warmup: int) -> float:
    """Warm a model up, and return how many milliseconds its last run took, above 0.

    A run that takes as long as many others warms up by itself.
    """
    for _ in range(max(warmup, 1)):
        one_ms = block_ms(session, feeds, 1)
        if one_ms > WARM_MS:
            break
    return max(one_ms, 1e-3)


def _affordable(sessions: Prepared, feeds: Feeds, blocks: Mapping[str, int], timing: Timing) -> int:
    """Return how many rounds fit the time, from one round that is not counted."""
    start = time.perf_counter()
    for name, session in sessions.items():
        block_ms(session, feeds, blocks[name])
    one = time.perf_counter() - start
    return min(timing.rounds, max(FEWEST_ROUNDS, int(timing.seconds / one)))


def block_ms(session: Callable[[Feeds], Once], feeds: Feeds, runs: int) -> float:
    """Return the median milliseconds of some runs in a row."""
    run = session(feeds)
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1e3


def _latency(
    name: str,
    path: Path,
    rounds: Mapping[str, Sequence[float]],
    memory: Footprint | None,
    kernels: KernelReport,
) -> ModelLatency:
    first, times = next(iter(rounds.values())), rounds[name]
    spread = Spread.of(times)
    return ModelLatency(
        name=name,
        path=path,
        latency_ms=spread,
        speedup=Spread.of(first).median / spread.median,
        paired_speedup=Spread.of([one / other for one, other in zip(first, times, strict=True)]),
        rounds_ms=tuple(times),
        size_bytes=size_on_disk(path),
        footprint=memory,
        kernels=kernels,
    )


def _shapes(feeds: Feeds) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, tuple(np.shape(array))) for name, array in feeds.items())


def _sequence_lengths(feeds: Feeds) -> list[int]:
    """Return the second axis of each feed of shape (N, T) that holds whole numbers, such as token ids."""
    return [array.shape[1] for array in feeds.values() if array.ndim == 2 and array.dtype.kind in "iu"]


def _distinct(values: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(values))
