"""One compilation, from the source to what is known of the result: the one place where all parts meet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from onnxq.background import in_background
from onnxq.calibration.data import Batch, Dataset, InputSpec, input_specs
from onnxq.calibration.table import CalibrationTable
from onnxq.comparison import (
    JUDGED_ON,
    Comparison,
    CompileOptions,
    Samples,
    choose_samples,
    compare,
    first_few,
    has_more,
    one_by_one,
    used_samples,
    with_few,
    with_options,
)
from onnxq.engine.build import Build, Built
from onnxq.engine.executor import executor_of
from onnxq.engine.judge import Judge
from onnxq.engine.measurements import Measurements
from onnxq.engine.samples import Half, first_samples
from onnxq.engine.score import Score
from onnxq.engine.source import Source
from onnxq.engine.trial import Trial
from onnxq.errors import DataError, InputError, ToleranceError, called
from onnxq.files import as_utf8, replacing
from onnxq.heap import make_room
from onnxq.ir.module import GraphModule
from onnxq.ir.store import (
    foreign_operators,
    model_digest,
    model_size,
    write_model,
)
from onnxq.manifest import (
    DataUsed,
    Manifest,
    ModelFile,
    ProcessorAssumed,
    installed_versions,
)
from onnxq.outputs import Outputs
from onnxq.passmanager.base import Pass, PassRecord
from onnxq.passmanager.instruments import Count, Instrument
from onnxq.passmanager.left_in_float import left_in_float
from onnxq.passmanager.pipeline import override, parse_pipeline
from onnxq.passmanager.summary import summarise
from onnxq.processor import cpu_flags
from onnxq.progress import Progress, steps_of
from onnxq.quant.facts import joined
from onnxq.recipe import Recipe
from onnxq.runtime.bench import LatencyReport
from onnxq.runtime.environment import runtime_versions
from onnxq.runtime.gates import Gates, below_floor, check, enforce, enforce_useful, floor_db, worst_db
from onnxq.runtime.run import Run
from onnxq.runtime.session import usable_provider
from onnxq.runtime.validate import AccuracyReport
from onnxq.runtime.validity import only_valid
from onnxq.search.choose import Choice, choose, settings
from onnxq.search.floor import Ground, Held, hold
from onnxq.search.forms import in_float
from onnxq.search.frontier import Point, compiled
from onnxq.search.tune import Tuning, tune
from onnxq.shown import Shown
from onnxq.staging import sync
from onnxq.warned import (
    warn_of_decisions,
    warn_of_floats,
    warn_of_precision,
    warn_of_rows,
    warn_of_saturation,
    warn_of_simulation,
    warn_of_size,
)

FLOOR_TARGETS = ("cpu",)
"""Targets whose recipes quantize, and take layers back."""
TUNED_TARGETS = ("cpu", "cuda")
"""Targets that promise speed on the machine at hand."""

FEWEST_JUDGES = 16
"""Fewer samples that nothing was measured on do not decide a recipe's choices."""


@dataclass(frozen=True)
class CompileResult(Shown):
    """What one compilation gave.

    Args:
        output: The compiled model.
        manifest: Its manifest's content; the file lies beside the model, as the report does.
        records: What each pass did.
        accuracy: The comparison with the source, if asked for.
        latency: The timing of both with the kernels that ran, if asked for.

    """

    output: Path
    manifest: Manifest
    records: tuple[PassRecord, ...]
    accuracy: AccuracyReport | None
    latency: LatencyReport | None


@dataclass
class Compilation:
    """The state of one compilation, from the source to the report."""

    source: Source
    recipe: Recipe
    data: Dataset | None
    options: CompileOptions
    progress: Progress
    trials: Build | None = None
    """What built the forms to choose from, while it is needed."""
    choice: Choice | None = None
    tuning: Tuning | None = None
    held: Held | None = None
    remarks: tuple[str, ...] = ()
    """What has to be known of how the result came about, besides its passes."""
    judge: Judge | None = None
    """What says whether a result misses anything, where layers may go to float for that."""

    @cached_property
    def build(self) -> Build:
        """What builds recipes of the source."""
        return Build(self.source, measurements=self._measurements)

    def _foreseen(self) -> list[Pass]:
        """Return the passes as the recipe's choices will have them."""
        passes = parse_pipeline(self.recipe.pipeline)
        tried = [pass_ for setting in settings(self.recipe) for pass_ in override(passes, setting)]
        return [pass_ for pass_ in tried if pass_ not in passes]

    @cached_property
    def _measurements(self) -> Measurements | None:
        if self.data is None:
            return None
        limit = self.recipe.calibration.samples
        data = with_options(self.data, limit=min(limit, self.data.options.limit or limit))
        return Measurements.on(data, self.options.threads, self.progress)

    @cached_property
    def _inputs(self) -> tuple[InputSpec, ...]:
        """What the model takes; nothing where no data could hold that, and none is given."""
        try:
            return input_specs(self.source.module.model)
        except DataError:
            if self.data is not None:
                raise
            return ()

    def accept(self, table: CalibrationTable) -> None:
        """Take facts from ``table``, which has to be the source's."""
        table.check(self.source.digest)
        self.build.table = table

    def table_of(self, built: Built) -> CalibrationTable | None:
        """Return the facts that a build read, after those that were given; None if it read none."""
        given, measured = self.build.table, self._measurements
        if given is not None:
            return replace(given, facts=joined(given.facts, built.facts))
        if measured is None or not built.facts:
            return None
        return CalibrationTable(
            self.source.digest, measured.data.digest(), measured.data.count(), built.facts
        )

    def choose(self) -> None:
        """Decide the recipe's choices on the calibration data; without data the recipe is taken as it is."""
        if self.data is None:
            return
        assert self._measurements is not None
        self._measurements.data.digest(steps_of(self.progress, "reading data"))
        self.trials, judges = self._apart(self._measurements)
        score = Score(self.source.path, lambda: judges, Run(threads=self.options.threads))
        processes = self.options.processes
        self.trials.vary(self.recipe.decided(), self.recipe.choices)
        self.choice = choose(
            self.recipe,
            Trial(self.trials, score, self._foreseen()),
            steps_of(self.progress, "choosing"),
            executor_of(processes if processes == 1 or self._measurements.data.fit() else 1),
        )
        self.recipe = self.choice.recipe

    def _apart(self, measurements: Measurements) -> tuple[Build, Sequence[Batch]]:
        """Return what builds forms, and samples that judge them, on which nothing is measured.

        Clipping that suits the samples it was chosen on may ruin others. Where few are left unmeasured, forms
        are measured on one half and judged on the other; where there is but one batch, on the same.
        """
        assert self.data is not None
        unseen = list(with_few(Samples(self.data, self._used)).batches())
        if sum(batch.rows for batch in unseen) >= FEWEST_JUDGES:
            return self.build, unseen
        half = list(first_samples(Half(measurements.data, 1).batches(), JUDGED_ON))
        if self.build.table is not None or not half:
            return self.build, list(first_samples(measurements.data.batches(), JUDGED_ON))
        return Build(self.source, measurements=measurements.on_half(0)), half

    def tune(self) -> None:
        """Replace the recipe by its fastest form on this machine."""
        samples, target = choose_samples(self.data, 0, self._inputs, self.options), self.recipe.runs_on
        provider = usable_provider(target.provider) or "cpu"
        try:
            self.tuning = tune(
                self.source.path,
                self.recipe,
                self.trials or self.build,
                [batch.feeds for batch in samples.timed(self.options.bench_batch_size)],
                Run(provider, self.options.threads, dict(target.session_entries)),
                self.progress,
                self.judge,
                self.options.prefer,
            )
        except InputError:
            if not samples.made_up:
                raise
            return  # comparing says why random inputs do not run
        self.recipe = self.tuning.recipe

    def built(self, instruments: Sequence[Instrument]) -> Built:
        """Build what is written, from the source, with every pass verified."""
        self.trials = None
        total = len(parse_pipeline(self.recipe.pipeline))
        count = Count(lambda done: self.progress("building", done, total))
        built = self.build.of(self.recipe, (count, *instruments))
        self.progress("building", total, total)
        return built

    def kept_when_interrupted(self) -> AbstractContextManager[None]:
        """Let an interrupt of the block say what the next run finds again; see ``Measurements``."""
        return nullcontext() if self._measurements is None else self._measurements.kept_when_interrupted()

    @property
    def holds_floor(self) -> bool:
        """Whether layers may go to float for what is asked for to hold."""
        return self.options.keep_floor and self.recipe.target in FLOOR_TARGETS

    @property
    def is_tunable(self) -> bool:
        """Whether forms can be timed where the result is to run."""
        return (
            self.recipe.target in TUNED_TARGETS and usable_provider(self.recipe.runs_on.provider) is not None
        )

    def hold_back(self) -> None:
        """Measure ranges on fewer samples, where else none would be left to judge the result by.

        So do recipes without a floor: what one has measured serves the others. To be called before anything
        is measured.
        """
        if self.data is None or self.options.validation_data is not None or not self.options.keep_floor:
            return
        used = used_samples(self.data, self.recipe.calibration.samples)
        calibration = self.recipe.calibration.model_copy(update={"samples": used})
        self.recipe = self.recipe.model_copy(update={"calibration": calibration})

    def hold_floor(self) -> None:
        """Replace the recipe by one whose result misses nothing, layers in float as far as it takes."""
        samples = choose_samples(self.data, self._used, self._inputs, self.options)
        if self.data is None or not samples.meaningful or in_float(self.recipe) == self.recipe:
            return
        self.trials = None  # the rest is measured on all samples
        self.build.let_go()
        self.build.vary(self.recipe, ())
        options, run = self.options, Run(threads=self.options.threads)
        few = list(with_few(one_by_one(samples)).batches())
        timed = samples.timed(options.bench_batch_size) if options.bench and options.tune else ()
        rest = samples.batches if has_more(samples, sum(batch.rows for batch in few)) else None
        self.judge = Judge(self.source.path, few, rest, self._missed, options.metric, run)
        self.held = hold(
            self.recipe,
            Ground(
                self.build,
                self.judge,
                first_few(self.data),
                [batch.feeds for batch in timed],
                self._wanted_db(sum(batch.rows for batch in few)),
                executor_of(options.processes),
                self.progress,
            ),
        )
        self.recipe = self.held.recipe

    @property
    def _used(self) -> int:
        """How many samples ranges are measured on."""
        if self.build.table is not None:
            return self.build.table.samples
        return 0 if self._measurements is None else self._measurements.data.count()

    def _wanted_db(self, samples: int) -> float | None:
        """Return the SQNR that is asked for on so many samples, if one is."""
        given = [gates.min_sqnr_db for gates in (self.recipe.gates, self.options.gates)]
        return floor_db(samples) if self._judges_itself else max(filter(None, given), default=None)

    def _missed(self, report: AccuracyReport) -> list[str]:
        """Return what a comparison shows to be below what is asked for."""
        if self._judges_itself:
            return below_floor(report)
        return [line for gates in (self.recipe.gates, self.options.gates) for line in check(report, gates)]

    @property
    def _judges_itself(self) -> bool:
        """Whether nobody said how close the result must come, so that it must be of use at least."""
        return self.recipe.gates == self.options.gates == Gates()

    def finish(self, built: Built, outputs: Outputs, describe: Callable[[Manifest], str]) -> CompileResult:
        """Save the model, compare, time, and write what is known beside it: all of it, or nothing.

        Args:
            built: The model.
            outputs: Where it goes.
            describe: Makes the report, for people to read.

        Raises:
            OnnxqError: Something failed; for a missed gate, all is written nevertheless.

        """
        module, table = built.module, self.table_of(built)
        self._let_go(module)
        used = table.samples if table is not None else 0
        samples = choose_samples(self.data, used, self._inputs, self.options)
        output = outputs.model
        with replacing(*outputs.files(module)) as (report, content, *model):
            self.progress("writing", 0, None)
            write_model(module, model, self._stamp)
            tried = model[-1]
            digest = in_background(lambda: model_digest(tried))
            settled = in_background(lambda: sync(*model))
            with only_valid(self.source.path), called(tried, str(output)):
                comparison = compare(
                    self.source.path, tried, samples, self.options, self.progress, self._run(module)
                ).about(output)
            fed = samples.fed_shapes if self.recipe.runs_on.block_rows else {}
            of_rows = warn_of_rows(module, self.recipe.runs_on, fed)
            comparison = replace(comparison, warnings=(*comparison.warnings, *of_rows))
            judges = self._judges_itself and samples.meaningful and self.options.require_useful
            judged = comparison.accuracy if judges else None
            manifest = self._manifest(built, table, tried, digest.result(), comparison)
            content.write_text(manifest.to_json(), encoding="utf-8")
            report.write_text(describe(manifest), encoding="utf-8")
            self.progress("reading the source again", 0, None)
            self.source.verify()
            settled.result()
        self._enforce(comparison.accuracy, output)
        if judged is not None:
            enforce_useful(judged)
        return CompileResult(output, manifest, built.records, comparison.accuracy, comparison.latency)

    def _let_go(self, module: GraphModule) -> None:
        """Forget what was measured for passes alone, which have all run."""
        module.forget_facts()
        if self._measurements is not None:
            self._measurements.let_go()
        make_room()

    def _run(self, module: GraphModule) -> Run | None:
        """Return where and how the target runs a model; None if that is not here."""
        target = self.recipe.runs_on
        provider = usable_provider(target.provider)
        return None if provider is None else Run(provider, self.options.threads, target.options_for(module))

    def _enforce(self, accuracy: AccuracyReport | None, output: Path) -> None:
        """Hold the result to the gates of the recipe and to those that were asked for."""
        for gates in (self.recipe.gates, self.options.gates):
            if accuracy is not None:
                enforce(accuracy, gates)
            elif gates != Gates() and self.options.validate:
                raise ToleranceError(
                    "no gate could be measured, as the models were not compared", where=str(output)
                )

    def _warnings(self, module: GraphModule) -> tuple[str, ...]:
        of_data = (self.data.warning,) if self.data is not None and self.data.warning else ()
        of_tuning = self.tuning.warnings if self.tuning is not None else ()
        unmeasured = self.recipe.gates != Gates() and not self.options.validate
        of_float = self.held.warnings if self.held is not None else ()
        of_gates = ("the recipe's gates were not measured, as asked",) if unmeasured else ()
        of_target = self._warnings_of_target(module)
        told = (*self.remarks, *self._warnings_of_source(module))
        return of_data + told + of_float + of_tuning + of_target + of_gates

    def _warnings_of_source(self, module: GraphModule) -> tuple[str, ...]:
        """Name the operators that onnxq knows nothing about, and that are still there."""
        before, after = (
            {remark.op_type for remark in foreign_operators(one)} for one in (self.source.module, module)
        )
        kinds = sorted(before & after)
        return (f"left alone, as they are no standard operators: {', '.join(kinds)}",) if kinds else ()

    @property
    def _encodes(self) -> bool:
        """Whether a pass of the recipe quantizes weights."""
        return any(pass_.encodes_weights for pass_ in parse_pipeline(self.recipe.pipeline))

    def _warnings_of_weights(self, built: Built, output: Path) -> tuple[str, ...]:
        """Say what a recipe that quantizes weights left as it was, where that is not told already."""
        told = any(found is not None and found.warnings for found in (self.held, self.tuning))
        if told or not self._encodes:
            return ()
        sizes = model_size(self.source.path), model_size(output)
        decided = warn_of_decisions(built.module)
        return (decided or warn_of_floats(built.module, built.records)) + warn_of_size(*sizes)

    def _warnings_of_target(self, module: GraphModule) -> tuple[str, ...]:
        """Say where the result was not run, or where it does not run right."""
        target = self.recipe.runs_on
        if usable_provider(target.provider) is not None:
            return warn_of_saturation(module)
        return (f"provider {target.provider} is not here: compared on the CPU, and not timed",)

    def _data_used(self, table: CalibrationTable) -> DataUsed:
        name = as_utf8(self.data.name) if self.data is not None else "calibration table"
        found = self._measurements
        counts = {} if found is None else {"measured": found.tally.measured, "recalled": found.tally.recalled}
        return DataUsed(name=name, digest=table.data, samples=table.samples, **counts)

    def _stamp(self) -> dict[str, str]:
        """Return what stands in the model itself of what it is and where it comes from."""
        return {
            "onnxq.version": installed_versions()["onnxq"],
            "onnxq.recipe": self.recipe.name,
            "onnxq.pipeline": " ".join(self.recipe.pipeline.split()),
            "onnxq.source.sha256": self.source.digest,
        }

    def _frontier(self, size: int, comparison: Comparison) -> tuple[Point, ...] | None:
        """Return what there was to choose from, the result as it was measured at the end."""
        accuracy, latency = comparison.accuracy, comparison.latency
        if self.held is None or not self.held.frontier or accuracy is None:
            return None
        tuned = 0 if self.tuning is None else self.tuning.in_float
        return compiled(
            self.held.frontier,
            None if in_float(self.recipe) == self.recipe else tuned,
            sqnr_db=worst_db(accuracy),
            size_bytes=size,
            speedup=None if latency is None else latency.models[1].paired_speedup.median,
        )

    def _manifest(
        self,
        built: Built,
        table: CalibrationTable | None,
        output: Path,
        digest: str,
        comparison: Comparison,
    ) -> Manifest:
        module, accuracy, latency = built.module, comparison.accuracy, comparison.latency
        assumed = self.recipe.processor
        warnings = (
            *self._warnings(module),
            *self._warnings_of_weights(built, output),
            *warn_of_precision(built.assigned),
            *warn_of_simulation(parse_pipeline(self.recipe.pipeline)),
            *comparison.warnings,
        )
        return Manifest(
            recipe=self.recipe.decided(),
            source=_model_file(self.source.path, self.source.digest),
            output=_model_file(output, digest),
            opsets={
                domain or "ai.onnx": version for domain, version in sorted(module.model.opset_imports.items())
            },
            ir_version=module.model.ir_version,
            session_options=self.recipe.runs_on.options_for(module),
            data=None if table is None else self._data_used(table),
            table=None if table is None else table.for_manifest(),
            versions={**installed_versions(), **runtime_versions()},
            cpu_flags=cpu_flags(),
            processor=None if assumed is None else ProcessorAssumed.called(assumed),
            passes=summarise(built.records),
            choices=None if self.choice is None else self.choice.trials,
            precision=built.assigned,
            floats=left_in_float(module, built.records) if self._encodes else (),
            tuning=None if self.tuning is None else self.tuning.verdicts,
            frontier=self._frontier(model_size(output), comparison),
            accuracy=accuracy,
            latency=latency,
            kernels=None if latency is None else latency.models[1].kernels,
            warnings=tuple(map(as_utf8, warnings)),
        )


def _model_file(path: Path, digest: str) -> ModelFile:
    return ModelFile(name=path.name, digest=digest, size_bytes=model_size(path))
