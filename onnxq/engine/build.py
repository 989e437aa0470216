"""From a recipe to a graph, in memory: what pipelines have in common at their beginning runs once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from onnxq.calibration.collect import collect
from onnxq.calibration.data.base import Batch
from onnxq.calibration.table import LEFT_OUT, CalibrationTable
from onnxq.engine.known import Known
from onnxq.engine.learning import Learning, Unlearned
from onnxq.engine.measurements import Measurements
from onnxq.engine.source import Source
from onnxq.errors import CalibrationError
from onnxq.heap import make_room
from onnxq.ir.module import GraphModule, name_of
from onnxq.passmanager.base import Pass, PassRecord
from onnxq.passmanager.instruments import BisectLimit, Instrument, VerifyEach
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.memo import Memo
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.passmanager.precision import Assigned, Precision, assigned
from onnxq.progress import quiet
from onnxq.quant.facts import Facts, Need, joined, meets
from onnxq.recipe import Recipe
from onnxq.runtime.available import cpu_kernels
from onnxq.runtime.batch import Feeds, batch_size
from onnxq.runtime.validity import only_valid

MOST_STATES = 24
"""How many beginnings of pipelines are kept; those that were not used for longest go."""

Beginning = tuple[str, ...]
"""What the graph after some passes depends on: where it shall run, and the passes as text."""


@dataclass
class Answers:
    """Facts for passes: those of a table, by name, and what is measured.

    Args:
        table: What was measured before; None for nothing.
        measurements: Where else facts come from; None if there is no data.
        origin: Returns the graph as it was before anything was measured; None if that is how it stands. A
            value of it is measured there: under its name, it holds the same numbers ever after but for what
            quantizing does, so that its facts do not depend on which passes ran meanwhile.
        likely: What may be said of values of these names, where the table says nothing.
        given: What passes were told so far, by name.

    """

    table: CalibrationTable | None
    measurements: Measurements | Known | None
    origin: Callable[[], GraphModule | None]
    likely: Mapping[str, Facts] = field(default_factory=dict)
    given: dict[str, Facts] = field(default_factory=dict)

    def of(self, module: GraphModule, needs: Sequence[Need]) -> Mapping[str, Facts]:
        """Return facts that meet ``needs``, by name.

        Raises:
            CalibrationError: The table lacks something, and there is no data, or it is other data.

        """
        known = joined(self.likely, {} if self.table is None else self.table.facts)
        missing = [need for need in needs if not meets(known, need)]
        if missing:
            known = joined(known, self._measured(module, missing))
        found = {need.value: known[need.value] for need in needs}
        self.given = joined(self.given, found)
        return found

    def _measured(self, module: GraphModule, needs: Sequence[Need]) -> Mapping[str, Facts]:
        if self.measurements is None:
            in_no_table = any(need.stats & LEFT_OUT for need in needs)
            again = "" if in_no_table else "calibrate again with the same recipe, or "
            raise CalibrationError(
                "the table says nothing about it, or too little",
                where=f"value {needs[0].value!r}",
                hint=f"{again}give --data",
            )
        if self.table is not None:
            self.measurements.require(self.table.data)
        origin = self.origin() or module
        names = {name_of(value) for value in origin.values()}
        found: dict[str, Facts] = {}
        for where, wanted in (
            (origin, [need for need in needs if need.value in names]),
            (module, [need for need in needs if need.value not in names]),
        ):
            if wanted:
                found |= self.measurements.of(where, wanted)
        return found


@dataclass(frozen=True)
class Glimpse:
    """What one batch tells: enough where only the time of a result counts.

    Args:
        feeds: The batch.

    """

    feeds: Feeds

    def of(self, module: GraphModule, needs: Sequence[Need]) -> Mapping[str, Facts]:
        """Return facts that meet ``needs``, by name; nobody remembers them."""
        return collect(module.model, needs, self).facts

    def batches(self) -> Iterator[Batch]:
        """Yield the batch."""
        yield Batch(self.feeds, None, batch_size(self.feeds))


@dataclass(frozen=True)
class Built:
    """A graph, and how it came about.

    Args:
        module: The graph.
        records: What each pass did.
        facts: What the passes were told, by name, as far as tables hold it.
        assigned: What the recipe assigns to layers and values, and what they got.

    """

    module: GraphModule
    records: tuple[PassRecord, ...]
    facts: Mapping[str, Facts]
    assigned: tuple[Assigned, ...] = ()


@dataclass
class Build:
    """Builds recipes of one source, on one set of data.

    Args:
        source: The model.
        table: Facts that were measured before; None for none.
        measurements: Where other facts come from; None if there is no data.
        memo: What passes computed for layers, for as long as there are trials.

    """

    source: Source
    table: CalibrationTable | None = None
    measurements: Measurements | Known | None = None
    memo: Memo = field(default_factory=Memo)
    _varied: frozenset[str] = field(default=frozenset(), init=False)
    _states: OrderedDict[Beginning, GraphModule] = field(default_factory=OrderedDict, init=False)
    _early: dict[Beginning, GraphModule] = field(default_factory=dict, init=False)
    _origins: set[Beginning] = field(default_factory=set, init=False)
    _told: dict[str, Facts] = field(default_factory=dict, init=False)
    _idle: set[Beginning] = field(default_factory=set, init=False)

    def vary(self, recipe: Recipe, names: Iterable[str]) -> None:
        """Begin with trials that differ from ``recipe`` in passes of these names.

        Only the graphs before them are kept, and of those from before its own.
        """
        texts = _texts(recipe)
        for beginning in [one for one in self._states if one != texts[: len(one)]]:
            del self._states[beginning]
        self._varied = frozenset(names)

    def _forget(self) -> None:
        """Forget what trials have in common, as there are no more."""
        self.memo.kept.clear()
        self._early.clear()
        self._origins.clear()
        self._told = {}
        make_room()

    def let_go(self) -> None:
        """Let go of the graphs that are kept, but those that nothing was measured of yet."""
        self._states.clear()
        make_room()

    def elsewhere(self) -> Build:
        """Return what gives the same trials in another process, and measures nothing there."""
        known = None if self.measurements is None else Known(self.measurements.facts)
        build = Build(self.source, self.table, known, self.memo)
        build._varied = self._varied
        return build

    def of(self, recipe: Recipe, instruments: Sequence[Instrument] = ()) -> Built:
        """Run the recipe on the source from the beginning, each pass verified; let go of what trials kept.

        Raises:
            OnnxqError: A pass failed, or model, data or recipe are at fault.

        """
        self.let_go()
        answers, keeping = self._answers(recipe), _Keeping(self, recipe, frozenset())
        module = self.source.clone()
        watching = _Assigning.of(recipe)
        manager = self._manager(recipe, (keeping, VerifyEach(), watching, *instruments), answers)
        with only_valid(self.source.path):
            records = manager.run(module)
        self._forget()
        self.source.glance()
        facts = {name: facts.without(LEFT_OUT) for name, facts in answers.given.items()}
        return Built(module, tuple(records), facts, tuple(watching.found))

    def rest(
        self, recipe: Recipe, module: GraphModule, start: int, instruments: Sequence[Instrument] = ()
    ) -> list[PassRecord]:
        """Run the passes of the recipe behind the first ``start`` on a graph, each verified.

        Raises:
            OnnxqError: As ``of``.

        """
        manager = self._manager(recipe, (VerifyEach(), *instruments), self._answers(recipe))
        with only_valid(self.source.path):
            return manager.run(module, start)

    def trial(
        self, recipe: Recipe, foreseen: Sequence[Pass] = (), instruments: Sequence[Instrument] = ()
    ) -> GraphModule:
        """Return the same graph, built from what earlier trials had in common with it, and not verified.

        Args:
            recipe: What to build.
            foreseen: Passes of trials to come: what they want of a graph is measured along with the rest.
            instruments: What watches the passes, from the first on that gives precision.

        """
        answers, keeping = self._answers(recipe), _Keeping(self, recipe, self._varied)
        begun = self._begun(_undecided(recipe)) if instruments else None
        module = self._tried(
            recipe, answers, (_Assigning.of(recipe), keeping, *instruments), foreseen, begun=begun
        )
        self._told = joined(self._told, answers.given)
        return module

    def sketch(self, recipe: Recipe, count: int | None = None) -> GraphModule:
        """Return a graph that takes the time of the recipe's: what trials measured counts for it by name.

        Args:
            recipe: What to build.
            count: So many of its passes run; None for all.

        """
        return self._tried(recipe, self._answers(recipe, self._told), (), count=count)

    def outline(self, recipe: Recipe, feeds: Feeds) -> GraphModule:
        """Return a graph that takes the time of the recipe's, for which one batch was looked at."""
        return self._tried(recipe, Glimpse(feeds), ())

    def _answers(self, recipe: Recipe, likely: Mapping[str, Facts] | None = None) -> Answers:
        texts = _texts(recipe)
        return Answers(self.table, self.measurements, lambda: self._origin(texts), likely or {})

    def _origin(self, texts: Beginning) -> GraphModule | None:
        """Return the graph before the first pass that asks for facts; None if no run has got there."""
        ends = range(len(texts), 0, -1)
        return next((self._early[texts[:end]] for end in ends if texts[:end] in self._origins), None)

    def _tried(
        self,
        recipe: Recipe,
        answers: Answers | Glimpse,
        instruments: Sequence[Instrument],
        foreseen: Sequence[Pass] = (),
        count: int | None = None,
        begun: tuple[int, GraphModule] | None = None,
    ) -> GraphModule:
        texts = _texts(recipe)
        last = len(texts) - 1 if count is None else count
        start, module = begun or self._begun(texts[: last + 1])
        manager = self._manager(recipe, (BisectLimit(last), *instruments), answers)
        manager.foreseen = foreseen
        with only_valid(self.source.path):
            manager.run(module, start)
        return module

    def did_nothing(self, recipe: Recipe, name: str) -> bool:
        """Tell whether the recipe was built, and its passes of this name made no edit."""
        texts = _texts(recipe)
        places = (end for end, pass_ in enumerate(parse_pipeline(recipe.pipeline), 2) if pass_.name == name)
        return all(texts[:end] in self._idle for end in places)

    def note_idle(self, ending: Beginning) -> None:
        """Remember that the last of these passes made no edit."""
        self._idle.add(ending)

    def keep_early(self, beginning: Beginning, module: GraphModule, *, asked: bool) -> None:
        """Remember a graph that nothing was measured of yet, or for the next pass alone if that has asked."""
        if beginning not in self._early:
            self._early[beginning] = module.clone()
        if asked:
            self._origins.add(beginning)

    def keep(self, beginning: Beginning, module: GraphModule) -> None:
        """Remember the graph that passes gave, with what was measured."""
        if beginning not in self._states:
            self._states[beginning] = module.clone()
        while len(self._states) > MOST_STATES:
            self._states.popitem(last=False)

    def _begun(self, texts: Beginning) -> tuple[int, GraphModule]:
        """Return how many of the passes ran already, and their graph."""
        for end in range(len(texts), 0, -1):
            if texts[:end] in self._states:
                self._states.move_to_end(texts[:end])
                return end - 1, self._states[texts[:end]].clone()
            if texts[:end] in self._early:
                return end - 1, self._early[texts[:end]].clone()
        return 0, self.source.clone()

    def _manager(
        self, recipe: Recipe, instruments: Sequence[Instrument], answers: Answers | Glimpse
    ) -> PassManager:
        has_facts = self.table is not None or self.measurements is not None
        return PassManager(
            parse_pipeline(recipe.pipeline),
            recipe.runs_on,
            instruments,
            answers.of if has_facts else None,
            kernels=cpu_kernels,
            memo=self.memo,
            precision=recipe.precision,
            runtime=self._runtime,
            progress=self.measurements.progress if isinstance(self.measurements, Measurements) else quiet,
        )

    @property
    def _runtime(self) -> Learning | Unlearned | None:
        if isinstance(self.measurements, Measurements):
            return Learning(self.measurements)
        return None if self.measurements is None else Unlearned()


@dataclass
class _Assigning(Instrument):
    """Requires that what the recipe assigns by name can be had, and notes what became of it.

    Args:
        precision: What is assigned.
        passes: The recipe's.
        found: What layers and values have, once decisions are complete.

    """

    precision: Precision
    passes: Sequence[Pass]
    found: list[Assigned] = field(default_factory=list)

    @classmethod
    def of(cls, recipe: Recipe) -> _Assigning:
        """Require that a pass gives each precision.

        Raises:
            RecipeError: No pass of the recipe gives one.

        """
        passes = parse_pipeline(recipe.pipeline)
        recipe.precision.require_given(
            [one for pass_ in passes for one in pass_.layer_precisions],
            [one for pass_ in passes for one in pass_.value_precisions],
        )
        return cls(recipe.precision, passes)

    def before(self, module: GraphModule, pass_: Pass, index: int) -> None:
        """Require names that fit before anything is decided, and look before it is realised."""
        if not (self.precision.layers or self.precision.values):
            return
        if pass_ == next(filter(gives_precision, self.passes), self.passes[0]):
            self.precision.require_matches(module)
        if pass_.realises and not self.found:
            self.found += assigned(module, self.precision)


def _texts(recipe: Recipe) -> Beginning:
    """Return what the graph after all passes of the recipe depends on.

    What is assigned by name counts from the first pass on that gives precision.
    """
    passes, precision = parse_pipeline(recipe.pipeline), recipe.precision
    integers = precision.makes_integers or any(pass_.makes_integers for pass_ in passes)
    first = next(filter(gives_precision, passes), passes[0] if passes else None)
    told = (f"{pass_} {precision}" if pass_ is first else str(pass_) for pass_ in passes)
    return f"{recipe.runs_on} {integers}", *told


def _undecided(recipe: Recipe) -> Beginning:
    """Return what the graph before the first pass that gives precision depends on."""
    passes = parse_pipeline(recipe.pipeline)
    first = next((place for place, pass_ in enumerate(passes) if gives_precision(pass_)), len(passes))
    return _texts(recipe)[: first + 1]


def gives_precision(pass_: Pass) -> bool:
    """Tell whether the pass gives precision to what a recipe names."""
    return bool(pass_.layer_precisions or pass_.value_precisions)


class _Keeping(Instrument):
    """Keeps the graph before passes in which trials differ, those of some names.

    Where nothing was measured yet, it is kept for all trials: before the first pass that may be left out, and
    before the first that asks for facts.
    """

    def __init__(self, build: Build, recipe: Recipe, names: frozenset[str]) -> None:
        passes = parse_pipeline(recipe.pipeline)
        self.build, self.texts, self.names = build, _texts(recipe), names
        self.asking = next((place for place, pass_ in enumerate(passes) if pass_.asks), len(passes))
        self.optional = next((place for place, pass_ in enumerate(passes) if pass_.optional), len(passes))

    def before(self, module: GraphModule, pass_: Pass, index: int) -> None:
        """Keep a copy."""
        beginning = self.texts[: index + 1]
        if index == self.asking or index == self.optional < self.asking:
            self.build.keep_early(beginning, module, asked=index == self.asking)
        elif pass_.name in self.names:
            self.build.keep(beginning, module)

    def after(self, module: GraphModule, pass_: Pass, index: int, record: PassRecord) -> None:
        """Note that the pass did nothing."""
        if not record.edits:
            self.build.note_idle(self.texts[: index + 2])
