"""A floor of quality: what costs the outputs most error for its time goes to float, until the floor holds.

The error of each part alone says in which order; how many parts it takes is measured on the compiled model
itself, as gains do not add up where errors are large. All layers are in float only where no part of them is
enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory

from onnxq.engine.build import Build, gives_precision
from onnxq.engine.executor import Executor, Serial
from onnxq.engine.judge import Judge
from onnxq.heap import make_room
from onnxq.ir.module import GraphModule
from onnxq.ir.store import output_files, write_model
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.progress import Progress, quiet, steps_of
from onnxq.recipe import Recipe
from onnxq.runtime.batch import Batch, Feeds
from onnxq.runtime.gates import option_of, worst_db
from onnxq.runtime.kernels import kernel_report
from onnxq.runtime.race import race
from onnxq.search.forms import in_float as all_in_float
from onnxq.search.frontier import Point, Tried, frontier
from onnxq.search.parts import Cost, Samples, costs, in_float
from onnxq.search.tune import EXACT, SOURCE

MOST_TRIALS = 9
"""So many recipes are tried, one after the other, to find how many parts it takes."""

BETTER = 0.25
"""What is looked for where no SQNR says what error is wanted: a quarter of it."""

SPREAD = 8
"""Neighbours that cost together no more than this part of what is wanted stay together."""


@dataclass(frozen=True)
class Held:
    """The recipe to compile with, and what else there is.

    Args:
        recipe: The recipe that holds the floor; compiling with it again needs no search.
        frontier: What was found on the way, all in integers first; empty if that holds the floor.
        warnings: What the user has to know.

    """

    recipe: Recipe
    frontier: tuple[Point, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ground:
    """What a floor is searched on.

    Args:
        build: Builds recipes.
        judge: Says what they miss.
        batches: What the error of parts is measured on.
        feeds: What to time with; none if nothing is timed.
        wanted_db: The SQNR that is asked for, if one is.
        executor: Who measures parts.
        progress: Told of parts, of recipes, and of rounds.

    """

    build: Build
    judge: Judge
    batches: Sequence[Batch]
    feeds: Sequence[Feeds] = ()
    wanted_db: float | None = None
    executor: Executor = field(default_factory=Serial)
    progress: Progress = quiet


def hold(recipe: Recipe, ground: Ground) -> Held:
    """Return the recipe with so many of its parts in float that its result misses nothing.

    Args:
        recipe: What to begin with.
        ground: What is asked for, and on what that is measured.

    Raises:
        OnnxqError: A result does not open or run, or the source has changed.

    """
    ground.build.source.glance()
    with TemporaryDirectory(prefix="onnxq-floor-") as folder:
        trials = _Trials(recipe, ground, Path(folder))
        if not trials.of(0).missed:
            return Held(recipe)
        passes = parse_pipeline(recipe.pipeline)
        ground.build.vary(recipe, (pass_.name for pass_ in passes if gives_precision(pass_)))
        trials.order = _ordered(trials)
        count = _fewest(trials)
        return _held(trials, trials.of(count) if count < len(trials.order) else trials.floats)


@dataclass
class _Trials:
    """Results with the first parts of an order in float, each built once.

    Args:
        recipe: What is built with none in float.
        ground: What it is measured on.
        folder: Where results lie.
        order: The parts.
        done: By how many entries of the order are in float.

    """

    recipe: Recipe
    ground: Ground
    folder: Path
    order: Sequence[Cost] = ()
    done: dict[int, Tried] = field(default_factory=dict)

    def of(self, count: int) -> Tried:
        """Return what there is with the first entries in float."""
        if count not in self.done:
            self.ground.progress("holding the floor", len(self.done), None)
            parts = [part for cost in self.order[:count] for part in cost.parts]
            recipe = self.recipe.with_precision(in_float(parts)) if parts else self.recipe
            self.done[count] = self._tried(f"{len(parts)} in float", recipe, len(parts))
        return self.done[count]

    @cached_property
    def floats(self) -> Tried:
        """What there is with all in float: exact, so that a glance tells what it misses, which is nothing."""
        recipe = all_in_float(self.recipe)
        path = self.written(self.ground.build.trial(recipe), EXACT)
        return Tried(EXACT, recipe, path, worst_db(self.ground.judge.glance(path)), (), None)

    @property
    def parts(self) -> int:
        """How many parts there are."""
        return sum(len(cost.parts) for cost in self.order)

    def _tried(self, name: str, recipe: Recipe, parts: int) -> Tried:
        path = self.written(self.ground.build.trial(recipe), name)
        report, missed = self.ground.judge.of(path)
        return Tried(name, recipe, path, worst_db(report), tuple(missed), parts)

    def written(self, module: GraphModule, name: str) -> Path:
        """Write a model into a folder of its own, with weights that are mapped where it is opened."""
        path = self.folder / name / "form.onnx"
        path.parent.mkdir()
        write_model(module, output_files(module, path, external_data=True))
        make_room()
        return path


def _ordered(trials: _Trials) -> list[Cost]:
    """Return the parts with those first that save most error for their time."""
    ground, noise = trials.ground, trials.of(0).noise
    found = costs(
        ground.build,
        trials.recipe,
        Samples(ground.judge.source, ground.batches, ground.judge.run),
        _noise_wanted(ground, noise) / SPREAD,
        ground.executor,
        steps_of(ground.progress, "measuring layers"),
    )
    times = _times(trials) if ground.feeds else {}
    return sorted(found, key=lambda cost: _worth(cost, times), reverse=True)


def _worth(cost: Cost, times: Mapping[str, float]) -> float:
    """Return the noise that goes for the time that is lost, the mean of all layers added for each part.

    A profile tells the small ones badly, and nothing of what moves between integers and floats beside them.
    """
    mean = sum(times.values()) / len(times) if times else 1.0
    return cost.noise / sum((mean or 1.0) + times.get(part.name, 0.0) for part in cost.parts)


def _noise_wanted(ground: Ground, noise: float) -> float:
    """Return the noise to look for where there is ``noise``."""
    wanted = 0.0 if ground.wanted_db is None else float(10 ** (-ground.wanted_db / 10))
    return wanted if 0 < wanted < noise else BETTER * noise


def _times(trials: _Trials) -> dict[str, float]:
    """Return how many microseconds each layer takes more in float."""
    integers, floats = _layers(trials, trials.of(0).path), _layers(trials, trials.floats.path)
    return {name: max(0.0, time - integers.get(name, 0.0)) for name, time in floats.items()}


def _layers(trials: _Trials, model: Path) -> dict[str, float]:
    """Return the microseconds of each layer, what quantizes for it included."""
    judge = trials.ground.judge
    report = kernel_report(model, trials.ground.feeds[0], judge.run, source=judge.source)
    total = sum(node.microseconds for node in report.nodes)
    return {one.name: (one.share + one.overhead) * total for one in report.provenance.layers}


def _fewest(trials: _Trials) -> int:
    """Return how many entries of the order it takes; all of them where no less is enough.

    How far to go is foretold by what the parts cost alone, and by halves in turn.
    """
    low, high = 0, len(trials.order)
    while high - low > 1 and len(trials.done) < MOST_TRIALS:
        foretold = len(trials.done) % 2 == 1
        count = _foretold(trials, low) if foretold else (low + high) // 2
        count = min(max(count, low + 1), high - 1)
        if trials.of(count).missed:
            low = count
        else:
            high = count
    return high


def _foretold(trials: _Trials, low: int) -> int:
    """Return how many entries it may take if ``low`` of them are not enough."""
    left = list(accumulate((cost.noise for cost in reversed(trials.order)), initial=0.0))[::-1]
    noise = trials.of(low).noise
    share = _noise_wanted(trials.ground, noise) / noise
    return next((count for count, rest in enumerate(left) if rest <= share * left[low]), len(left))


def _held(trials: _Trials, best: Tried) -> Held:
    whole, forms = trials.of(0), [*_shown(trials, best), trials.floats]
    count = "all" if best is trials.floats else f"{best.in_float} of {trials.parts}"
    warning = (
        f"{whole.missed[0]} ({option_of(whole.sqnr_db)} takes it as it is): kept {count} layers in float"
    )
    speeds = _raced(trials, forms) if trials.ground.feeds else {}
    return Held(best.recipe, frontier(forms, trials.parts, best, speeds), (warning,))


def _shown(trials: _Trials, best: Tried) -> list[Tried]:
    """Return the results to tell of: each is better by a decibel than those with fewer parts in float."""
    shown: list[Tried] = []
    for _, tried in sorted(trials.done.items()):
        if tried is best or not shown or tried.sqnr_db >= shown[-1].sqnr_db + 1:
            shown.append(tried)
    return shown


def _raced(trials: _Trials, forms: Sequence[Tried]) -> dict[str, float]:
    """Return how many times faster than the source each form is."""
    ground = trials.ground
    source = trials.written(ground.build.source.module, "source")
    models = {SOURCE: source, **{form.name: form.path for form in forms}}
    ground.build.let_go()
    steps = steps_of(ground.progress, "racing the floor")
    standings = race(models, ground.feeds, ground.judge.run, on_progress=steps)
    return {name: one.gain.median for name, one in standings.items()}
