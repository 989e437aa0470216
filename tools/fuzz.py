"""Random models through passes and recipes, each held to what is promised for every model.

Each seed names a random valid model (``onnxq.testing.generate``) and one of the routes that
``onnxq.testing.routes`` lists: a shipped recipe, a combination of passes, or one pass by itself. Routes take
turns, so a model meets one of them, not all. ``onnxq.testing.trials`` says what has to hold. Counted are:

- ok: everything held, or the pipeline had nothing to do;
- unusable: ONNX Runtime has no kernel for the source, or it computes infinities or NaN;
- refused: an error of the caller's side, which names the model or its data;
- failed: anything else, by kind. The first models of each kind are written to the folder as text, with the
  pipeline above the graph: a golden case, once it says what is right.

The state is kept in the folder after every few models; a run goes on where the last one ended. ``--again``
runs the seeds that failed before, and no others. Exits with 1 if anything failed.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import onnx_ir as ir
from measuring import parser, show

from onnxq.errors import OnnxqError
from onnxq.files import replacing
from onnxq.ir.module import GraphModule
from onnxq.ir.text import render
from onnxq.testing.generate.builder import Sample
from onnxq.testing.generate.model import seeded_sample
from onnxq.testing.routes import Route, routes
from onnxq.testing.trials import UnusableError, try_route

AT_ONCE = 25
"""How many models a process tries before the state is written."""
THOROUGH_EVERY = 4
"""Which models are compiled a second time, to compare the bytes, and read back as text after each pass."""
KEPT = 3
"""How many models of a kind are written."""


@dataclass
class State:
    """What was tried so far.

    Args:
        next_seed: Where to go on.
        tried: Models by route and outcome: ``ok``, ``unusable``, ``refused`` or ``failed``.
        kinds: Seed and route of each refusal and failure, by kind.
        seconds: Processor time.

    """

    next_seed: int = 0
    tried: dict[str, dict[str, int]] = field(default_factory=dict)
    kinds: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    seconds: float = 0.0

    @classmethod
    def load(cls, path: Path, seed: int) -> State:
        """Return the state in a file; a new one where there is none."""
        return cls(**json.loads(path.read_text())) if path.is_file() else cls(next_seed=seed)

    def save(self, path: Path) -> None:
        """Write it whole."""
        with replacing(path) as (staged,):
            staged.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    def count(self, route: Route, outcome: str, seed: int, kind: str) -> int:
        """Count one model, and return how many there are of its kind now."""
        outcomes = self.tried.setdefault(route.name, {})
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        if not kind:
            return 0
        self.kinds.setdefault(kind, []).append((seed, route.name))
        return len(self.kinds[kind])

    @property
    def failures(self) -> int:
        """How many models failed."""
        return sum(len(found) for kind, found in self.kinds.items() if not kind.startswith("refused"))


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--minutes", type=float, default=None, help="stop after so long")
    options.add_argument("--count", type=int, default=None, help="stop after so many models")
    options.add_argument("--seed", type=int, default=0, help="the first seed of a new run")
    options.add_argument("--processes", type=int, default=1, help="how many models are tried at a time")
    options.add_argument("--only", default="", help="try only routes with this text in their name")
    options.add_argument("--again", action="store_true", help="try what failed or was refused before")
    options.add_argument("--folder", type=Path, default=Path("fuzz"), help="where state and models go")
    args = options.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    path = args.folder / "state.json"
    state = State.load(path, args.seed)
    through = [route for route in routes() if args.only in route.name]
    if args.again:
        trials, state, path = _again(state, through), State(), args.folder / "again.json"
    else:
        trials = _turns(_seeds(state.next_seed, args.minutes, args.count), through)
    run(trials, state, path, args.processes)
    title = (
        f"{sum(sum(o.values()) for o in state.tried.values())} random models, each through one of the routes"
    )
    show(title, list(_rows(state)), list(_notes(state)), as_json=args.json)
    return int(state.failures > 0)


@dataclass(frozen=True)
class Trial:
    """A seed and its route, and what became of them: outcome, kind unless all was well, and the message."""

    seed: int
    route: Route
    outcome: str
    kind: str
    message: str


def run(trials: Iterator[tuple[int, Route]], state: State, path: Path, processes: int) -> None:
    """Try each seed's model on its route, some at a time, and keep the state after each lot."""
    while lot := list(itertools.islice(trials, processes * AT_ONCE)):
        parts = [lot[start::processes] for start in range(processes)]
        try:
            results = list(_pool(processes).map(attempt_all, parts))
        except BrokenProcessPool:
            _pool.cache_clear()
            results = [_alone(one) for one in lot]
        for found, seconds in results:
            for trial in found:
                number = state.count(trial.route, trial.outcome, trial.seed, trial.kind)
                if trial.outcome == "failed" and number <= KEPT:
                    write_case(path.parent / f"{trial.seed:06}.onnxtxt", trial)
            state.seconds += seconds
        state.next_seed = lot[-1][0] + 1
        state.save(path)


@cache
def _pool(processes: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(processes)


def _alone(one: tuple[int, Route]) -> tuple[list[Trial], float]:
    """Try one model in a process of its own, which it may end."""
    with ProcessPoolExecutor(1) as pool:
        try:
            return pool.submit(attempt_all, [one]).result()
        except BrokenProcessPool:
            return [Trial(*one, "failed", "failed: the process ended", "the process ended")], 0.0


def attempt_all(trials: list[tuple[int, Route]]) -> tuple[list[Trial], float]:
    """Return what became of each model, and the processor time for all."""
    start = time.process_time()
    found = [
        Trial(seed, route, *attempt(seeded_sample(seed), route, thorough=seed % THOROUGH_EVERY == 0))
        for seed, route in trials
    ]
    return found, time.process_time() - start


def attempt(sample: Sample, route: Route, *, thorough: bool) -> tuple[str, str, str]:
    """Return what became of a model, its kind unless all was well, and the message."""
    try:
        try_route(sample.model, sample.feeds, route, thorough=thorough)
    except UnusableError:
        return "unusable", "", ""
    except Exception as error:
        refused = isinstance(error, OnnxqError) and error.exit_code == 2
        outcome = "refused" if refused else "failed"
        return outcome, f"{outcome} {type(error).__name__}: {_without_particulars(str(error))}", str(error)
    return "ok", "", ""


def write_case(path: Path, trial: Trial) -> None:
    """Write the model as a golden case's file, or as it is where the text form cannot show it."""
    pipeline, reason = (" ".join(text.split()) for text in (trial.route.pipeline, trial.message))
    head = f"# RUN: {pipeline}\n# TARGET: {trial.route.target}\n# {reason}\n"
    sample = seeded_sample(trial.seed)
    try:
        text = render(GraphModule(ir.from_proto(sample.model)))
    except Exception:
        path.with_suffix(".onnx").write_bytes(sample.model.SerializeToString())
        text = ""
    path.write_text(head + text, encoding="utf-8")


def _without_particulars(message: str) -> str:
    """Replace names, numbers and lists, so that failures of one kind read alike."""
    text = " ".join(message.split())
    text = re.sub(r"'[^']*'", "'...'", text)
    text = re.sub(r"[-+]?\d[\d.]*(e[-+]?\d+)?", "#", text)
    return re.sub(r"[\[(][#, xN?]*[\])]", "[#]", text)[:160]


def _seeds(first: int, minutes: float | None, count: int | None) -> Iterator[int]:
    """Yield seeds until time or number is up; forever if neither is given."""
    end = None if minutes is None else time.monotonic() + 60 * minutes
    for seed in itertools.count(first):
        if (end is not None and time.monotonic() >= end) or (count is not None and seed >= first + count):
            return
        yield seed


def _turns(seeds: Iterable[int], through: list[Route]) -> Iterator[tuple[int, Route]]:
    return ((seed, through[seed % len(through)]) for seed in seeds)


def _again(state: State, through: list[Route]) -> Iterator[tuple[int, Route]]:
    """Yield what failed or was refused, on the routes of the same names."""
    by_name = {route.name: route for route in through}
    found = sorted((seed, route) for some in state.kinds.values() for seed, route in some)
    return ((seed, by_name[route]) for seed, route in found if route in by_name)


def _rows(state: State) -> Iterator[dict[str, Any]]:
    total: Counter[str] = Counter()
    for name, outcomes in sorted(state.tried.items()):
        total.update(outcomes)
        yield _row(name, outcomes)
    yield _row("all", total)


def _row(name: str, outcomes: dict[str, int]) -> dict[str, Any]:
    kinds = {kind: outcomes.get(kind, 0) for kind in ("ok", "unusable", "refused", "failed")}
    return {"route": name, "models": sum(kinds.values()), **kinds}


def _notes(state: State) -> Iterator[str]:
    yield f"seeds up to {state.next_seed - 1}; {state.seconds:.0f} s of processor time"
    for kind, found in sorted(state.kinds.items(), key=lambda item: -len(item[1])):
        shown = "; ".join(f"{seed}, {route}" for seed, route in found[:KEPT])
        yield f"{len(found)} {kind} ({shown}{'; ...' if len(found) > KEPT else ''})"


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # each process is one of as many as there are cores
    sys.exit(main())
