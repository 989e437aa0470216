"""Tuning: keep a form of the graph only where it is faster, in the model and on this machine.

Each distinct layer shape is tried in float where the profile does not show integers to be faster, and
each optional rewrite is left out, one at a time and in the whole model; all forms race against the model with
everything, as do the exact passes alone and the source. What is clearly faster without is left out, as far as
the result then still has the accuracy that is asked for, and races once more, against all three.

What is larger has to be faster by more (``PRICES``), unless the result would be slower than the source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

from onnxq.comparison import Prefer
from onnxq.engine.build import Build
from onnxq.engine.judge import Judge
from onnxq.errors import OnnxqError
from onnxq.heap import make_room
from onnxq.ir.module import GraphModule
from onnxq.ir.store import model_digest, output_files, write_model
from onnxq.passmanager.precision import Precision
from onnxq.progress import Progress, quiet, steps_of
from onnxq.recipe import Recipe, load_recipe
from onnxq.runtime.batch import Feeds
from onnxq.runtime.kernels import kernel_report
from onnxq.runtime.race import CLEAR_GAIN, Standing, opened, race
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session
from onnxq.search.forms import (
    Form,
    deciding,
    forms_of,
    groups_of,
    in_float,
    is_variant,
    timed_alone,
    timed_passes,
    with_passes,
    without,
)
from onnxq.search.remembered import Memory

EVERYTHING = "all-tensors"
"""The recipe that quantizes every value."""

GRAPH = "a CUDA graph"
"""The tuned form, its kernels recorded once and launched together."""

SOURCE, EXACT = "the source as it is", "the exact passes alone"
"""What a recipe's result must not be slower than."""

TOGETHER = "int8 for what is slower in it"
"""The form without all layers whose integer kernels take longer in a profile than those for floats."""

PRICES: Mapping[Prefer, float] = {"speed": 0.0, "balanced": 0.1, "size": 10.0}
"""What is f times larger has to be f ** price times faster. In the balance, four times the bytes are worth
15 % of the time, and a layer that is a tenth of the model 3 %; for size, 1 % of bytes is worth 10 %."""

FASTER = 0.9
"""A layer whose integer kernels take no more of its float kernels' time, what quantizes for them included, is
not tried in float."""


WORTH = 1.05
"""How much faster a variant of a pass has to be that gives other numbers."""

UNSURE = 0.5
"""So much of a layer's time with float kernels, as the profile tells it, is sure."""


@dataclass(frozen=True)
class Verdict:
    """What leaving out one form brought.

    Args:
        name: The form's name.
        gain: How many times faster the model is without it; None if remembered from an earlier run.
        spread: The tenth and ninetieth percentile of the same over the rounds; None where a profile told.
        dropped: Whether it is left out.
        needed: Whether it stays though the model is faster without: the result would miss what is asked for.
        faster: Whether the model is faster without it, be that worth the bytes or not.

    """

    name: str
    gain: float | None
    spread: tuple[float, float] | None
    dropped: bool
    needed: bool = False
    faster: bool = False


@dataclass(frozen=True)
class Tuning:
    """The recipe to compile with, and how it was found.

    Args:
        recipe: The tuned recipe; compiling with it again needs no timing.
        verdicts: One for each form that was tried.
        warnings: What the user has to know.
        in_float: How many layers are in float, as they are faster so.
        slower: Whether the result is slower than the source.

    """

    recipe: Recipe
    verdicts: tuple[Verdict, ...]
    warnings: tuple[str, ...] = ()
    in_float: int = 0
    slower: bool = False


def tune(
    source: Path,
    recipe: Recipe,
    build: Build,
    feeds: Sequence[Feeds],
    run: Run,
    on_progress: Progress = quiet,
    judge: Judge | None = None,
    prefer: Prefer = "balanced",
) -> Tuning:
    """Return the fastest form of ``recipe`` for ``source`` on this machine.

    Args:
        source: The original model.
        recipe: What to tune.
        build: Builds recipes.
        feeds: What to time with.
        run: Where and how all run.
        on_progress: Told of the forms that are built, and of the rounds of each race.
        judge: Says what a form misses of what is asked for; None where nothing is.
        prefer: What counts where a form is faster and another smaller.

    """
    with TemporaryDirectory(prefix="onnxq-tune-") as folder:
        timing = _Timing(source, build, Path(folder), feeds, run, on_progress, prefer)
        on_progress("building forms", 0, None)
        alone, passes = timed_alone(recipe), timed_passes(recipe)
        build.vary(alone, (pass_.name for pass_ in passes if pass_.optional or pass_.encodes_weights))
        timing.make(recipe, build.trial)
        groups = groups_of(build.sketch(alone, deciding(passes)), recipe.precision)
        forms = list(forms_of(recipe, groups))
        memory = Memory.of(timed_alone(recipe), feeds, run, prefer)
        known = memory.recall([form.name for form in forms])
        remembered = [Verdict(name, None, None, dropped) for name, dropped in (known or {}).items()]
        found, standings = (remembered, {}) if remembered else _tried(recipe, forms, groups, timing)
        for priced in _by_price(found, prefer):
            verdicts = _confirmed(recipe, groups, priced, timing)
            memory.keep({verdict.name: verdict.dropped for verdict in verdicts})
            if judge is not None:
                verdicts = _holding(
                    verdicts, lambda names: timing.misses(without(recipe, groups, names), judge)
                )
            dropped = _dropped(verdicts)
            tuned = without(recipe, groups, dropped)
            tuning = _never_slower(tuned, verdicts, timing, {} if dropped else standings)
            if not tuning.slower:
                break
        return _with_graph(tuning, timing) if run.provider == "cuda" else tuning


def _by_price(found: Sequence[Verdict], prefer: Prefer) -> Iterator[Sequence[Verdict]]:
    """Yield the verdicts, and in the balance those by time alone, for a result slower than the source."""
    yield found
    by_time = [replace(one, dropped=one.dropped or one.faster) for one in found]
    if prefer == "balanced" and by_time != found:
        yield by_time


def _dropped(verdicts: Sequence[Verdict]) -> list[str]:
    return [verdict.name for verdict in verdicts if verdict.dropped]


@dataclass(frozen=True)
class _Timing:
    """Builds forms into one folder, each once, and lets them race."""

    source: Path
    build: Build
    folder: Path
    feeds: Sequence[Feeds]
    run: Run
    on_progress: Progress
    prefer: Prefer = "balanced"
    made: dict[str, Path] = field(default_factory=dict)

    @property
    def price(self) -> float:
        """What is f times larger has to be f ** price times faster."""
        return PRICES[self.prefer]

    @property
    def whole(self) -> Path:
        """The form that leaves nothing out, which is made first."""
        return next(iter(self.made.values()))

    def make(self, recipe: Recipe, built: Callable[[Recipe], GraphModule] | None = None) -> Path:
        """Build a form that takes the time of ``recipe``'s result; by default, a sketch of it."""
        timed = timed_alone(recipe)
        if timed.pipeline not in self.made:
            self.made[timed.pipeline] = self._written((built or self.build.sketch)(timed))
            make_room()
        return self.made[timed.pipeline]

    def source_alike(self) -> Path:
        """Return a copy of the source that is written like the forms, and so as fast to read."""
        if "" not in self.made:
            self.made[""] = self._written(self.build.source.module)
        return self.made[""]

    def misses(self, recipe: Recipe, judge: Judge) -> bool:
        """Tell whether the recipe's result is less than what is asked for."""
        judged = f"judged {recipe.pipeline} {recipe.precision}"
        if judged not in self.made:
            self.made[judged] = self._written(self.build.trial(recipe))
        return bool(judge.of(self.made[judged])[1])

    def _written(self, module: GraphModule) -> Path:
        """Write a model whose weights are mapped where it is opened, and not copied.

        All files have one name, so that equal forms have equal bytes.
        """
        path = self.folder / str(len(self.made)) / "form.onnx"
        path.parent.mkdir()
        write_model(module, output_files(module, path, external_data=True))
        return path

    def layers(self, model: Path) -> dict[str, float]:
        """Return the microseconds of each layer of the source in a model, what quantizes for it included."""
        report = kernel_report(model, self.feeds[0], self.run, source=self.source)
        total = sum(node.microseconds for node in report.nodes)
        return {one.name: (one.share + one.overhead) * total for one in report.provenance.layers}

    def race(
        self, phase: str, models: Mapping[str, Path], runs: Mapping[str, Run] = MappingProxyType({})
    ) -> dict[str, Standing]:
        self.build.let_go()
        steps = steps_of(self.on_progress, phase)
        return race(models, self.feeds, self.run, runs=runs, on_progress=steps)

    def runs(self, model: Path, run: Run | None = None) -> bool:
        """Tell whether a model opens and runs."""
        with suppress(OnnxqError):
            opened(model, self.feeds[0], run or self.run)
            return True
        return False


def _tried(
    recipe: Recipe, forms: Sequence[Form], groups: Mapping[str, Sequence[str]], timing: _Timing
) -> tuple[list[Verdict], dict[str, Standing]]:
    """Time the model without each form against the model with all of them, where that may be faster.

    Return how the recipe's rivals stand to that model, too.
    """
    found, slow = _profiled(recipe, groups, timing)
    models, whole = {"all": timing.whole}, model_digest(timing.whole)
    built = timed_alone(recipe)
    tried = [form for form in forms if form.name not in found and not _is_same(form, built, timing.build)]
    tried += [Form(TOGETHER, without(recipe, groups, slow))] if len(slow) > 1 else []
    for number, form in enumerate(tried):
        timing.on_progress("building forms", number, len(tried))
        path = timing.make(form.recipe)
        if model_digest(path) != whole and (not is_variant(form.name) or timing.runs(path)):
            models[form.name] = path
    timing.on_progress("building forms", len(tried), len(tried))
    rivals = _rivals(recipe, timing)
    standings = timing.race("racing forms", {**models, **rivals})
    stood = {name: standings.pop(name) for name in rivals}
    loses = stood[SOURCE].faster or (EXACT in stood and stood[EXACT].worth(timing.price))
    found |= _verdicts(standings, slow if loses else [], timing.price)
    equal = {form.name: Verdict(form.name, 1.0, (1.0, 1.0), dropped=False) for form in forms}
    return list((equal | found).values()), stood


def _verdicts(
    standings: Mapping[str, Standing], slow: Sequence[str], price: float = 0.0
) -> dict[str, Verdict]:
    """Return a verdict on each form; slow ones have the one on all of them where that is to leave them out.

    They are given where the model would go back to float as a whole for them. A layer of a small model takes
    too little of its time for a race to tell, and thirty of them take much.
    """
    found = {name: _verdict(name, one, price) for name, one in standings.items() if name != TOGETHER}
    together = standings.get(TOGETHER)
    if together is not None and together.faster:
        found |= {name: _verdict(name, together, price) for name in slow}
    return _one_of_each(found)


def _one_of_each(verdicts: Mapping[str, Verdict]) -> dict[str, Verdict]:
    """Take no more than the fastest of several values of one option."""
    best: dict[str, float] = {}
    for name, one in verdicts.items():
        if is_variant(name) and one.dropped:
            option = name.partition("=")[0]
            best[option] = max(best.get(option, 0.0), one.gain or 0.0)
    return {
        name: replace(one, dropped=one.dropped and one.gain == best.get(name.partition("=")[0], one.gain))
        for name, one in verdicts.items()
    }


def _is_same(form: Form, built: Recipe, build: Build) -> bool:
    """Tell whether the form leaves out a pass that did nothing where all were built."""
    kind, _, name = form.name.partition(" ")
    return kind == "pass" and build.did_nothing(built, name)


def _rivals(recipe: Recipe, timing: _Timing) -> dict[str, Path]:
    """Return what the recipe's result must not be slower than, by name, and what may be faster."""
    exact = in_float(recipe)
    alone = {EXACT: timing.make(exact)} if exact != recipe else {}
    return {SOURCE: timing.source_alike(), **alone, **_everything(recipe, timing)}


def _profiled(
    recipe: Recipe, groups: Mapping[str, Sequence[str]], timing: _Timing
) -> tuple[dict[str, Verdict], list[str]]:
    """Return verdicts on layers of which no race has to tell, and the forms without layers that look slow.

    The former's integer kernels are faster, or take so little that with others the model cannot be clearly
    faster.
    """
    exact = in_float(recipe)
    if not groups or exact == recipe:
        return {}, []
    timing.on_progress("profiling layers", 0, None)
    integers = timing.layers(timing.whole)
    floats = timing.layers(timing.make(exact))
    total, found, slow = sum(integers.values()), {}, []
    for shape, nodes in groups.items():
        name = f"int8 for {shape}"
        before, after = (sum(times.get(node, 0.0) for node in nodes) for times in (floats, integers))
        at_best = total / (total - after + UNSURE * before)
        if after > 0 and (after <= FASTER * before or at_best < CLEAR_GAIN):
            found[name] = Verdict(name, total / (total - after + before), None, dropped=False)
        if after >= before > 0:
            slow.append(name)
    return found, slow


def _verdict(name: str, standing: Standing, price: float) -> Verdict:
    gain = standing.gain
    faster = standing.faster and (gain.median >= WORTH or not is_variant(name))
    dropped = faster and standing.worth(price)
    return Verdict(name, gain.median, (gain.p10, gain.p90), dropped, faster=faster)


def _confirmed(
    recipe: Recipe, groups: Mapping[str, Sequence[str]], verdicts: Sequence[Verdict], timing: _Timing
) -> Sequence[Verdict]:
    """Let what the verdicts leave race against all forms, and drop nothing if it is not faster.

    On a busy machine, a verdict from a few rounds among dozens of forms may be an accident. One that is
    remembered was confirmed.
    """
    if not any(verdict.dropped and verdict.gain is not None for verdict in verdicts):
        return verdicts
    tuned = timing.make(without(recipe, groups, _dropped(verdicts)))
    found = timing.race("confirming", {"all": timing.whole, "tuned": tuned})
    if found["tuned"].faster:
        return verdicts
    return [replace(verdict, dropped=False) for verdict in verdicts]


def _holding(verdicts: Sequence[Verdict], misses: Callable[[list[str]], bool]) -> Sequence[Verdict]:
    """Leave out as much as can be without missing what is asked for, what brings most time first."""
    names = [one.name for one in sorted(verdicts, key=lambda one: one.gain or 0, reverse=True) if one.dropped]
    if not names or not misses(names):
        return verdicts
    left_out: list[str] = []
    for name in names:
        if not misses([*left_out, name]):
            left_out.append(name)
    needed = set(names).difference(left_out)
    return [replace(one, dropped=False, needed=True) if one.name in needed else one for one in verdicts]


def _never_slower(
    tuned: Recipe, verdicts: Sequence[Verdict], timing: _Timing, standings: Mapping[str, Standing]
) -> Tuning:
    """Let the tuned form race against the exact passes and the source, unless ``standings`` tell already.

    What the noise does not tell apart is equal, and then int8 is kept; so it is where it is slower than the
    exact passes by less than its size is worth, unless the source is faster, too.
    """
    if not standings:
        models = {"tuned": timing.make(tuned), **_rivals(tuned, timing)}
        standings = timing.race("racing the source", models)
    everything = standings.get(EVERYTHING)
    standings = {name: one for name, one in standings.items() if name != EVERYTHING}
    name, best = max(standings.items(), key=lambda one: (one[1].faster, one[1].gain.median))
    hint = (_faster(everything),) if everything is not None and _ahead(everything, best) else ()
    slower = standings[SOURCE].faster
    if (slower and timing.prefer != "size") or best.worth(timing.price):
        instead = _instead(name, tuned)
        return Tuning(instead, tuple(verdicts), (_kept(name, best, standings), *hint), slower=slower)
    told = (_smaller(name, best, standings),) if best.faster else ()
    doubt = (_doubt(name, best),) if best.doubtful else ()
    return Tuning(tuned, tuple(verdicts), (*told, *doubt, *hint))


def _everything(tuned: Recipe, timing: _Timing) -> Mapping[str, Path]:
    """Return the form in which every value is quantized, as plain quantizers make it.

    It is none of the forms that may be kept, as nobody knows its error; and it is left out where the recipe
    measures nothing or runs elsewhere, where a pass does not take the model, or where it does not run.
    """
    recipe = load_recipe(EVERYTHING)
    elsewhere = tuned.runs_on.provider != recipe.runs_on.provider
    if not tuned.needs_data or tuned.name == recipe.name or elsewhere:
        return {}
    with suppress(OnnxqError):
        feeds = timing.feeds[0]
        path = timing.make(recipe, lambda timed: timing.build.outline(timed, feeds))
        open_session(path, timing.run).run(feeds)
        return {EVERYTHING: path}
    return {}


def _ahead(everything: Standing, best: Standing) -> bool:
    """Tell whether the form with everything quantized is faster than tuned and than what is kept."""
    return everything.faster and (not best.faster or everything.gain.p10 > best.gain.p90)


def _faster(everything: Standing) -> str:
    return (
        f"with every value quantized it would run at {everything.gain.median:.2f}x the speed of the recipe's "
        f"result here: --recipe {EVERYTHING} makes that, and tells what it costs in accuracy"
    )


def _with_graph(tuning: Tuning, timing: _Timing) -> Tuning:
    """Let the result race against itself as a CUDA graph: how it is run is no part of a model."""
    model, graph = timing.make(tuning.recipe), replace(timing.run, cuda_graph=True)
    shapes = {tuple((name, array.shape) for name, array in sorted(fed.items())) for fed in timing.feeds}
    if len(shapes) > 1 or not timing.runs(model, graph):
        return tuning
    standing = timing.race("racing a CUDA graph", {"tuned": model, GRAPH: model}, {GRAPH: graph})[GRAPH]
    gain = standing.gain
    verdict = Verdict(GRAPH, gain.median, (gain.p10, gain.p90), dropped=False)
    hint = (_replayed(gain.median),) if standing.faster else ()
    return replace(tuning, verdicts=(*tuning.verdicts, verdict), warnings=(*tuning.warnings, *hint))


def _replayed(gain: float) -> str:
    return (
        f"as a CUDA graph the result runs at {gain:.2f}x its speed on inputs of this shape: --cuda-graph of "
        "bench and validate, enable_cuda_graph of the provider"
    )


def _instead(rival: str, recipe: Recipe) -> Recipe:
    """Return the recipe that gives a rival of this one."""
    if rival == EXACT:
        return in_float(recipe)
    return with_passes(recipe, ()).model_copy(update={"needs_data": False, "precision": Precision()})


def _kept(name: str, best: Standing, standings: Mapping[str, Standing]) -> str:
    slower = 1 / standings[SOURCE].gain.median
    at = "" if name == SOURCE else f", at {best.gain.median * slower:.2f}x"
    return (
        f"the recipe's result runs at {slower:.2f}x the speed of the source here: kept {name}{at} "
        "(--no-tune for the result)"
    )


def _smaller(name: str, best: Standing, standings: Mapping[str, Standing]) -> str:
    source = 1 / standings[SOURCE].gain.median
    return (
        f"kept for its size: {name} would run at {best.gain.median * source:.2f}x the speed of the source "
        f"here, not at {source:.2f}x, in {best.larger:.1f} times the bytes (--prefer speed for that)"
    )


def _doubt(name: str, best: Standing) -> str:
    gain = best.gain
    return (
        f"{name} may be faster here than the recipe's result ({gain.median:.2f}x, but {gain.p10:.2f}x to "
        f"{gain.p90:.2f}x from round to round): on a machine that does nothing else, tuning can tell"
    )
