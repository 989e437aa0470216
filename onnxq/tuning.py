"""Tuning: keep a form of the graph only where it is faster, in the model and on this machine.

Each distinct layer shape is tried in float, and each optional rewrite is left out, one at a time and in the
whole model; all forms are timed interleaved in one run. What is clearly faster without is left out, and the
result is timed once more, against the model with everything and the source.
"""

from __future__ import annotations

import glob
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from onnxq.errors import InputError
from onnxq.files import write_whole
from onnxq.ir.layers import Layer, linear_layers
from onnxq.ir.module import GraphModule, attribute
from onnxq.passmanager.base import Pass, PassRecord
from onnxq.passmanager.instruments import Instrument
from onnxq.passmanager.pipeline import format_pipeline, parse_pipeline
from onnxq.passmanager.values import value_text
from onnxq.reading import parse_json
from onnxq.recipe import Recipe
from onnxq.runtime.batch import Feeds
from onnxq.runtime.bench import LatencyReport, ModelLatency, Progress, bench
from onnxq.runtime.environment import cpu_name, runtime_versions

OPTIONAL_PASSES = ("fuse-attention", "fuse-gelu", "fuse-integer-matmul", "fuse-layer-norm", "sum-residuals")
"""Exact rewrites whose only purpose is speed."""

VALUES_ONLY = ("equalize-activations", "round-weights")
"""Passes that change no more than numbers: what is built to be timed goes without them."""

CLEAR_GAIN = 1.01
"""A form has to win by 1 % in the median, and in nine rounds of ten, to be taken."""

Build = Callable[[Recipe, Path, Sequence[Instrument]], None]
"""Compiles with a recipe into a file, on the ranges that were measured already."""


@dataclass(frozen=True)
class Form:
    """One thing that can be left out of a recipe.

    Args:
        name: What is left out: ``int8 for MatMul 384x1536`` or ``pass sum-residuals``.
        recipe: The recipe without it.

    """

    name: str
    recipe: Recipe


@dataclass(frozen=True)
class Verdict:
    """What leaving out one form brought.

    Args:
        name: The form's name.
        gain: How many times faster the model is without it; None if remembered from an earlier run.
        spread: The tenth and ninetieth percentile of the same over the rounds.
        dropped: Whether it is left out.

    """

    name: str
    gain: float | None
    spread: tuple[float, float] | None
    dropped: bool


@dataclass(frozen=True)
class Tuning:
    """The recipe to compile with, and how it was found.

    Args:
        recipe: The tuned recipe; compiling with it again needs no timing.
        verdicts: One for each form that was tried.
        warnings: What the user has to know.

    """

    recipe: Recipe
    verdicts: tuple[Verdict, ...]
    warnings: tuple[str, ...] = ()


@dataclass
class LayerGroups(Instrument):
    """Collects the encoded layers by shape, as they stand behind ``encode-weights``."""

    nodes: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def after(self, module: GraphModule, pass_: Pass, index: int, record: PassRecord) -> None:
        """Group the layers whose weight has an encoding."""
        if pass_.name == "encode-weights":
            for layer in linear_layers(module):
                if module.reads_encoded(layer.node, layer.weight):
                    self.nodes[_shape_of(layer)].append(layer.node.name or "")


def tune(
    source: Path,
    recipe: Recipe,
    build: Build,
    feeds: Sequence[Feeds],
    threads: int | None,
    on_progress: Progress | None = None,
) -> Tuning:
    """Return the fastest form of ``recipe`` for ``source`` on this machine.

    Args:
        source: The original model.
        recipe: What to tune.
        build: How to compile with a recipe.
        feeds: What to time with.
        threads: Threads within an operator.
        on_progress: Called with (rounds done, rounds in all) of the longest timing.

    """
    groups = LayerGroups()
    with TemporaryDirectory(prefix="onnxq-tune-") as folder:
        timing = _Timing(source, build, Path(folder), feeds, threads, on_progress)
        timing.make(recipe, timing.path("all"), [groups])
        forms = list(_forms(recipe, groups.nodes))
        memory = _Memory.of(recipe, feeds, threads)
        verdicts = memory.recall(forms) or _tried(forms, timing)
        tuned = _without(recipe, groups.nodes, [verdict.name for verdict in verdicts if verdict.dropped])
        tuning = _never_slower(recipe, tuned, verdicts, timing)
        memory.keep(tuning.verdicts)
        return tuning


@dataclass
class _Timing:
    """Builds forms into one folder and times them against each other."""

    source: Path
    build: Build
    folder: Path
    feeds: Sequence[Feeds]
    threads: int | None
    on_progress: Progress | None

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.onnx"

    def make(self, recipe: Recipe, path: Path, instruments: Sequence[Instrument] = ()) -> None:
        """Build a form that takes the time of ``recipe``'s result; its numbers may be others."""
        pipeline = format_pipeline(_timed(recipe))
        self.build(recipe.model_copy(update={"pipeline": pipeline}), path, instruments)

    def run(self, models: Mapping[str, Path]) -> LatencyReport:
        return bench(models, self.feeds, threads=self.threads, memory=False, on_progress=self.on_progress)


def _timed(recipe: Recipe) -> list[Pass]:
    """Return the passes that a form's time depends on."""
    return [pass_ for pass_ in parse_pipeline(recipe.pipeline) if pass_.name not in VALUES_ONLY]


def _forms(recipe: Recipe, groups: Mapping[str, Sequence[str]]) -> Iterator[Form]:
    for shape in groups:
        name = f"int8 for {shape}"
        yield Form(name, _without(recipe, groups, [name]))
    present = {pass_.name for pass_ in parse_pipeline(recipe.pipeline)}
    for optional in OPTIONAL_PASSES:
        if optional in present:
            yield Form(f"pass {optional}", _without(recipe, groups, [f"pass {optional}"]))


def _without(recipe: Recipe, groups: Mapping[str, Sequence[str]], names: Sequence[str]) -> Recipe:
    """Return the recipe with the named forms left out."""
    passes = [pass_ for pass_ in parse_pipeline(recipe.pipeline) if f"pass {pass_.name}" not in names]
    recipe = recipe.model_copy(update={"pipeline": format_pipeline(passes)})
    nodes = [node for shape, members in groups.items() if f"int8 for {shape}" in names for node in members]
    if not nodes:
        return recipe
    old = next(getattr(pass_, "exclude", ()) for pass_ in passes if pass_.name == "encode-weights")
    exclude = value_text((*old, *map(glob.escape, nodes)))
    return recipe.with_options([f"encode-weights.exclude={exclude}"])


def _tried(forms: Sequence[Form], timing: _Timing) -> list[Verdict]:
    """Time the model without each form against the model with all of them, where it is another model."""
    models, whole = {"all": timing.path("all")}, timing.path("all").read_bytes()
    for number, form in enumerate(forms):
        path = timing.path(str(number))
        timing.make(form.recipe, path)
        if path.read_bytes() != whole:
            models[form.name] = path
    report = timing.run(models) if len(models) > 1 else None
    found = {} if report is None else {timed.name: _verdict(timed) for timed in report.models[1:]}
    return [found.get(form.name, Verdict(form.name, 1.0, (1.0, 1.0), dropped=False)) for form in forms]


def _verdict(timed: ModelLatency) -> Verdict:
    gain = timed.paired_speedup
    dropped = gain.median > CLEAR_GAIN and gain.p10 > 1
    return Verdict(timed.name, gain.median, (gain.p10, gain.p90), dropped)


def _never_slower(recipe: Recipe, tuned: Recipe, verdicts: list[Verdict], timing: _Timing) -> Tuning:
    """Compare with the untuned form and with the source; keep the fastest, of the first two that in doubt.

    On a busy machine, a verdict from a few rounds among dozens of forms may be an accident. One that is
    remembered has been confirmed already.
    """
    exact = in_float(tuned)
    plain = recipe.model_copy(update={"pipeline": "", "needs_data": False})
    models = {"source": timing.source}
    if any(verdict.dropped and verdict.gain is not None for verdict in verdicts):
        models["all"] = timing.path("all")
    for name, form in (("tuned", tuned), ("exact", exact)):
        models[name] = timing.path(name)
        timing.make(form, models[name])
    speed = {timed.name: timed.paired_speedup.median for timed in timing.run(models).models}
    if speed["tuned"] < CLEAR_GAIN * speed.get("all", 0):
        tuned, speed["tuned"] = recipe, speed["all"]
        verdicts = [replace(verdict, dropped=False) for verdict in verdicts]
    if exact == tuned:
        speed["exact"] = speed["tuned"]
    if speed["tuned"] >= max(1.0, speed["exact"]):
        return Tuning(tuned, tuple(verdicts))
    kept, choice = ("the source as it is", plain)
    if speed["exact"] >= 1:
        kept, choice = (f"the exact passes alone, at {speed['exact']:.2f}x", exact)
    warning = (
        f"the recipe's result runs at {speed['tuned']:.2f}x the speed of the source here: "
        f"kept {kept} (--no-tune for the result)"
    )
    return Tuning(choice, tuple(verdicts), (warning,))


def in_float(recipe: Recipe) -> Recipe:
    """Return the recipe with all layers in float; one that quantizes none stays as it is."""
    if all(pass_.name != "encode-weights" for pass_ in parse_pipeline(recipe.pipeline)):
        return recipe
    return recipe.with_options(["encode-weights.exclude=*"])


def _shape_of(layer: Layer) -> str:
    """Return what decides a layer's speed: operator, weight shape, strides and groups."""
    weight = "x".join(str(size) for size in layer.weight.shape or ())
    strides = attribute(layer.node, "strides", None)
    group = attribute(layer.node, "group", 1)
    parts = [layer.node.op_type, weight]
    parts += [f"stride {max(strides)}"] if strides and max(strides) > 1 else []
    parts += [f"groups {group}"] if group > 1 else []
    return " ".join(parts)


@dataclass(frozen=True)
class _Memory:
    """Verdicts of earlier runs, by ONNX Runtime, processor, threads, input shapes, passes and form."""

    path: Path | None
    place: str

    @classmethod
    def of(cls, recipe: Recipe, feeds: Sequence[Feeds], threads: int | None) -> _Memory:
        shapes = ", ".join(
            f"{name} {'x'.join(map(str, array.shape))}" for name, array in sorted(feeds[0].items())
        )
        machine = f"onnxruntime {runtime_versions()['onnxruntime']} | {cpu_name()} | threads {threads}"
        return cls(cache_file(), f"{machine} | {shapes} | {format_pipeline(_timed(recipe))}")

    def recall(self, forms: Sequence[Form]) -> list[Verdict] | None:
        """Return earlier verdicts if there is one for every form."""
        known = self._read()
        if not all(form.name in known for form in forms):
            return None
        return [Verdict(form.name, None, None, known[form.name]) for form in forms]

    def keep(self, verdicts: Sequence[Verdict]) -> None:
        """Remember; where the cache cannot be written, the next run measures again."""
        if self.path is None:
            return
        new = {self.place: {**self._read(), **{verdict.name: verdict.dropped for verdict in verdicts}}}
        with suppress(OSError, InputError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, json.dumps({**self._read_all(), **new}, indent=1, sort_keys=True) + "\n")

    def _read(self) -> dict[str, bool]:
        return self._read_all().get(self.place, {})

    def _read_all(self) -> dict[str, dict[str, bool]]:
        """Return what is remembered; a file that is damaged, or a part that is, says nothing."""
        try:
            content = parse_json(self.path.read_text(encoding="utf-8")) if self.path is not None else {}
        except (OSError, ValueError):
            return {}
        places = content.items() if isinstance(content, dict) else ()
        return {place: known for place, known in places if _is_known(known)}


def _is_known(known: object) -> bool:
    return isinstance(known, dict) and all(isinstance(dropped, bool) for dropped in known.values())


def cache_file() -> Path | None:
    """Return where verdicts are remembered; None for a user without a home."""
    given = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(given or Path.home() / ".cache", "onnxq", "tuning.json")
    except RuntimeError:
        return None
