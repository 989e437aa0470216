"""A race: which models are faster than one of them, decided in as few rounds as the noise allows.

All run interleaved, as in ``bench``. Whoever is known to be faster, or not to be, leaves early, so that a
dozen forms of which none pays cost little more than one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from onnxq.heap import trim
from onnxq.ir.store import model_size
from onnxq.progress import Steps
from onnxq.runtime.batch import Feeds
from onnxq.runtime.bench import LONGEST_BLOCK, STILL, Spread, block_ms, schedule, warmed_ms
from onnxq.runtime.bound import Once, prepared
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session

CLEAR_GAIN = 1.01
"""A model has to win by 1 % in the median, and in nine rounds of ten, to count as faster."""
FIRST_ROUNDS = 5
"""Before so many rounds nobody leaves: one slow moment of the machine is no reason."""
WON_ROUNDS = 10
"""After so many, whoever won each of them is faster: of equals one in a thousand does."""
MOST_ROUNDS = 20
BLOCK_MS, SHORT_BLOCK_MS = 30.0, 15.0
FEW_RUNS = 3
"""A block is short if three runs fill it: rounds of longer ones differ as much, by what the machine does
meanwhile. Runs that take longer go on to the whole block, as far as three go, and one at least: more rounds
tell more than more runs in one."""


@dataclass(frozen=True)
class Entrant:
    """An open model, warm, and how many of its runs make a block."""

    session: Callable[[Feeds], Once]
    runs: int

    def block_ms(self, feeds: Feeds) -> float:
        """Return the milliseconds of one run, the median of a block."""
        return block_ms(self.session, feeds, self.runs)


@dataclass(frozen=True)
class Standing:
    """How one model did.

    Args:
        gain: How many times faster it is than the first one, over the rounds.
        larger: How many times larger its files are.

    """

    gain: Spread
    larger: float = 1.0

    @property
    def faster(self) -> bool:
        """Whether it is faster beyond doubt; whom the noise does not tell from the first is equal."""
        return self.gain.median > CLEAR_GAIN and self.gain.p10 > 1

    def worth(self, price: float) -> bool:
        """Tell whether it is so much faster that it may be larger: by ``larger ** price``."""
        return self.faster and self.gain.median >= self.larger**price

    @property
    def doubtful(self) -> bool:
        """Whether it looks faster, and the rounds differ too much to say so."""
        return self.gain.median > CLEAR_GAIN and not self.faster


def race(
    models: Mapping[str, Path],
    feeds: Sequence[Feeds],
    run: Run = Run(),
    *,
    runs: Mapping[str, Run] = MappingProxyType({}),
    seconds: float = 3.0,
    on_progress: Steps = lambda done, total: None,
) -> dict[str, Standing]:
    """Time models beside the first of them; return how each of the others stands to it.

    Args:
        models: Files by name.
        feeds: Round n uses feeds n, from the start when they are used up.
        run: Where and how all run.
        runs: Where and how single ones do, by name.
        seconds: About how long it may take.
        on_progress: Called with (rounds done, rounds that there is time for).

    Raises:
        OnnxqError: A model does not open, or does not run on these feeds.

    """
    on_progress(0, MOST_ROUNDS)
    asked = {name: runs.get(name, run) for name in models}
    entrants = _entrants(models, models, feeds[0], asked)
    first, *running = models
    gains: dict[str, list[float]] = {name: [] for name in running}
    done, start = 0, time.perf_counter()
    for number in range(MOST_ROUNDS):
        if not running or (number >= FIRST_ROUNDS and time.perf_counter() > start + seconds):
            break
        order = _order(first, running, number)
        if number == FIRST_ROUNDS:
            entrants.clear()  # else each would be there twice
            entrants = _entrants(models, order, feeds[0], asked)
        fed = feeds[number % len(feeds)]
        times = {name: entrants[name].block_ms(fed) for name in order}
        for name in running:
            gains[name].append(times[first] / times[name])
        running = [name for name in running if not is_decided(gains[name])]
        done = number + 1
        on_progress(done, _rounds(done, time.perf_counter() - start, seconds))
    on_progress(done, done)
    del entrants
    trim()
    size = model_size(models[first])
    return {
        name: Standing(Spread.of(found), model_size(models[name]) / size) for name, found in gains.items()
    }


def _entrants(
    models: Mapping[str, Path], names: Iterable[str], feeds: Feeds, runs: Mapping[str, Run]
) -> dict[str, Entrant]:
    """Open some of the models, and warm them up.

    Who is left after the first rounds is opened once more: of two sessions of one model, one may be faster by
    a percent for as long as both live.
    """
    sessions = {name: opened(models[name], feeds, runs[name]) for name in _largest_first(models, names)}
    return {
        name: Entrant(session, block_of(warmed_ms(session, feeds, 3))) for name, session in sessions.items()
    }


def _largest_first(models: Mapping[str, Path], names: Iterable[str]) -> Sequence[str]:
    """Return in which order to open models: what opening takes besides is gone before the others come."""
    return sorted(names, key=lambda name: -model_size(models[name]))


def opened(model: Path, feeds: Feeds, run: Run) -> Callable[[Feeds], Once]:
    """Open a model; one that does not run is told of here, with a reason.

    Raises:
        OnnxqError: It does not open, or does not run on these feeds.

    """
    session = open_session(model, run.with_defaults(STILL))
    once = prepared(session)
    if run.cuda_graph:
        once(feeds)()  # what is recorded has to find inputs and outputs where they were
    else:
        session.run(feeds)
    return once


def _rounds(done: int, taken: float, seconds: float) -> int:
    """Return how many rounds there will be, if nobody leaves."""
    return max(done, FIRST_ROUNDS, min(MOST_ROUNDS, int(done * seconds / taken)))


def _order(first: str, running: Sequence[str], number: int) -> Sequence[str]:
    """Return the models of one round; their order turns from round to round."""
    *_, order = schedule([first, *running], number + 1)
    return order


def block_of(one_ms: float) -> int:
    """Return how many runs make a block, from what one takes."""
    short = min(int(SHORT_BLOCK_MS / one_ms), LONGEST_BLOCK)
    return max(1, short, min(FEW_RUNS, int(BLOCK_MS / one_ms)))


def is_decided(gains: Sequence[float]) -> bool:
    """Tell whether more rounds would say the same: the model is not faster, or is."""
    return len(gains) >= FIRST_ROUNDS and (_is_out(gains) or _has_won(gains))


def _is_out(gains: Sequence[float]) -> bool:
    """Tell whether a model is not faster in three rounds of four, or does not win nine of ten, rounded up."""
    lost = sum(gain <= 1 for gain in gains)
    return float(np.percentile(gains, 75)) < CLEAR_GAIN or lost > math.ceil(len(gains) / 10)


def _has_won(gains: Sequence[float]) -> bool:
    """Tell whether a model won all of its rounds, three of four clearly."""
    return len(gains) >= WON_ROUNDS and min(gains) > 1 and float(np.percentile(gains, 25)) > CLEAR_GAIN
