"""Compiling a model: the one place where all parts meet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from onnxq.calibration.collect import collect
from onnxq.calibration.data import Dataset, InputSpec, input_specs
from onnxq.calibration.table import LEFT_OUT, CalibrationTable
from onnxq.choosing import Choice, choose
from onnxq.comparison import (
    Comparison,
    CompileOptions,
    Progress,
    choose_samples,
    compare,
    warn_of_floats,
    warn_of_saturation,
    warn_of_size,
    with_options,
)
from onnxq.errors import CalibrationError, InputError, ToleranceError, called
from onnxq.files import as_utf8, replacing
from onnxq.ir.digest import graph_digest
from onnxq.ir.module import GraphModule, name_of
from onnxq.ir.store import (
    foreign_operators,
    model_digest,
    model_files,
    model_size,
    output_files,
    write_model,
)
from onnxq.ir.watched import WatchedModel
from onnxq.manifest import (
    DataUsed,
    Manifest,
    ModelFile,
    ProcessorAssumed,
    installed_versions,
    summarise,
)
from onnxq.outputs import Outputs
from onnxq.passmanager.base import PassRecord
from onnxq.passmanager.instruments import Instrument, VerifyEach
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.processor import cpu_flags
from onnxq.quant.facts import Facts, Need, joined, meets
from onnxq.recipe import Recipe
from onnxq.report.markdown import render_report
from onnxq.runtime.available import cpu_kernels
from onnxq.runtime.bench import LatencyReport
from onnxq.runtime.compare import OutputAccuracy, plain
from onnxq.runtime.environment import runtime_versions
from onnxq.runtime.gates import (
    Gates,
    accepting,
    enforce,
    enforce_useful,
    require_measurable,
    useless,
    uselessness,
)
from onnxq.runtime.session import usable_provider
from onnxq.runtime.validate import AccuracyReport
from onnxq.runtime.validity import only_valid
from onnxq.tuning import Tuning, in_float, tune

TUNED_TARGETS = ("cpu",)
"""Targets that promise speed on the machine at hand."""

WEIGHT_PASSES = frozenset({"encode-weights", "encode-weight-blocks", "split-linear"})
"""Passes that shall make the weights smaller."""

CHOSEN_ON = 64
"""How many of the calibration samples a recipe's choices are decided on."""


@dataclass(frozen=True)
class CompileResult:
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

    def _repr_html_(self) -> str:
        """Show results and what was left alone in a notebook."""
        from onnxq.report.html import tables_html
        from onnxq.report.tables import result_table, skipped_table

        content = self.manifest.model_dump(mode="json")
        return tables_html([result_table(content), skipped_table(content["passes"])])


def compile_model(
    source: Path | str,
    output: Path | str,
    *,
    recipe: Recipe,
    data: Dataset | None = None,
    validation_data: Dataset | None = None,
    table: CalibrationTable | None = None,
    instruments: Sequence[Instrument] = (),
    options: CompileOptions | None = None,
    on_progress: Progress | None = None,
    force: bool = False,
    inputs: Sequence[Path] = (),
) -> CompileResult:
    """Compile ``source`` into ``output``, with a manifest and a report beside it.

    All are written together or not at all, and replace files of the same kinds that onnxq wrote, no others.

    Args:
        source: An ONNX model; it is only read.
        output: Where the compiled model goes.
        recipe: Which passes, for which target.
        data: Samples to measure ranges on; what lies beyond those is used to validate.
        validation_data: Other samples to validate and time with.
        table: Ranges that were measured before, instead of ``data``.
        instruments: What watches the passes.
        options: What happens around them.
        on_progress: Called as the work goes on.
        force: Replace files that onnxq did not write, too; what is being read never is.
        inputs: More files that are being read, besides ``source`` and the data.

    Raises:
        OnnxqError: What is wrong, where, and what to do; the outputs are then as they were before,
            except for a missed gate, which leaves them for inspection.

    """
    options, progress = options or CompileOptions(), on_progress or _quiet
    require_measurable(options.gates, compared=options.validate, has_metric=options.metric is not None)
    recipe = recipe.settled()
    watched = WatchedModel.of(Path(source))
    compilation = _Compilation(watched, recipe, data, options, progress)
    read = [path for dataset in (data, validation_data) if dataset is not None for path in dataset.paths]
    outputs = Outputs(Path(output), (*model_files(Path(source)), *inputs, *read), force)
    outputs.files(watched.load())  # what cannot be written is better known now
    if table is not None:
        compilation.accept(table)
    if options.choose and recipe.choices:
        compilation.choose()
    if options.tune and options.bench and recipe.target in TUNED_TARGETS:
        compilation.tune(validation_data)
    module, records = compilation.run_passes(compilation.recipe, instruments)
    try:
        return compilation.finish(module, records, outputs, validation_data)
    except _UselessError as error:
        compilation.keep_float(error.output)
    module, records = compilation.run_passes(compilation.recipe, instruments)
    return compilation.finish(module, records, outputs, validation_data)


def calibrate_model(
    source: Path | str, data: Dataset, *, recipe: Recipe, on_progress: Progress | None = None
) -> CalibrationTable:
    """Measure what the recipe's passes need, and return it as a table for later compilations.

    Raises:
        CalibrationError: No pass of the recipe needs data for this model.

    """
    watched = WatchedModel.of(Path(source))
    compilation = _Compilation(watched, recipe, data, CompileOptions(), on_progress or _quiet)
    compilation.run_passes(recipe)
    watched.verify()
    if compilation.table is None:
        raise CalibrationError(
            f"no pass needs data for {compilation.source.name}",
            where=f"recipe {recipe.name}",
            hint="the model has nothing that it quantizes, or another recipe has to be chosen: onnxq recipes",
        )
    return compilation.table


class _UselessError(Exception):
    """The result is useless and there is a better one; nothing was written."""

    def __init__(self, output: OutputAccuracy) -> None:
        super().__init__(output.name)
        self.output = output


def _quiet(stage: str, done: int, total: int | None) -> None:
    """Report no progress."""


@dataclass(frozen=True)
class _Face:
    """What has to be known of the source besides its graph."""

    inputs: tuple[InputSpec, ...]
    names: frozenset[str]
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, module: GraphModule) -> _Face:
        """Look at the inputs, and at operators that onnxq knows nothing about."""
        kinds = sorted({remark.op_type for remark in foreign_operators(module)})
        warning = f"left alone, as they are no standard operators: {', '.join(kinds)}"
        names = frozenset(map(name_of, module.values()))
        return cls(input_specs(module.model), names, (warning,) if kinds else ())


@dataclass
class _Compilation:
    """The state of one compilation, from the source to the report."""

    watched: WatchedModel
    recipe: Recipe
    data: Dataset | None
    options: CompileOptions
    progress: Progress
    table: CalibrationTable | None = None
    choice: Choice | None = None
    tuning: Tuning | None = None
    kept_float: str | None = None
    """Why the layers stay in float after all, as a warning."""
    seen: dict[str, Mapping[str, Facts]] = field(default_factory=dict)
    """What was measured, by the graph that ran: forms that are chosen from begin alike."""

    @property
    def source(self) -> Path:
        """The file that is compiled."""
        return self.watched.path

    def accept(self, table: CalibrationTable) -> None:
        """Take facts from ``table``, which has to be the source's."""
        table.check(self.watched.digest)
        self.table = table

    def run_passes(
        self, recipe: Recipe, instruments: Sequence[Instrument] = ()
    ) -> tuple[GraphModule, list[PassRecord]]:
        """Run the recipe on the source; facts come from the table, or else from the data."""
        module = self.watched.load()
        manager = PassManager(
            parse_pipeline(recipe.pipeline),
            recipe.runs_on,
            (VerifyEach(), *instruments),
            self._measure if self.table is not None or self.data is not None else None,
            kernels=cpu_kernels,
        )
        with only_valid(self.source):
            return module, manager.run(module)

    def choose(self) -> None:
        """Decide the recipe's choices on the calibration data; without data the recipe is taken as it is.

        Each value is tried with facts of the source's own values alone: what passes make may stand for
        other numbers under the same name, in another form of the graph.
        """
        if self.data is None:
            return
        limit = min(CHOSEN_ON, self.recipe.calibration.samples, self.data.options.limit or CHOSEN_ON)
        data, names = with_options(self.data, limit=limit), self._face.names

        def on_progress(done: int, total: int | None) -> None:
            self.progress("choosing", done, total)

        with TemporaryDirectory(prefix="onnxq-choose-") as folder:

            def build(recipe: Recipe) -> Path:
                module, _ = self.run_passes(recipe)
                self.table = self.table and self.table.only(names)
                *_, path = files = output_files(module, Path(folder, "tried.onnx"))
                write_model(module, files)
                return path

            threads = self.options.threads
            self.choice = choose(self.recipe, build, self.source, data.batches, threads, on_progress)
        self.recipe = self.choice.recipe

    def tune(self, validation_data: Dataset | None) -> None:
        """Replace the recipe by its fastest form on this machine."""
        samples = choose_samples(validation_data, self.data, 0, self._face.inputs, self.options)

        def build(recipe: Recipe, path: Path, instruments: Sequence[Instrument]) -> None:
            module, _ = self.run_passes(recipe, instruments)
            write_model(module, output_files(module, path))

        def on_progress(done: int, total: int | None) -> None:
            self.progress("tuning", done, total)

        try:
            feeds = [batch.feeds for batch in samples.timed(self.options.bench_batch_size)]
            threads = self.options.threads
            self.tuning = tune(self.source, self.recipe, build, feeds, threads, on_progress)
        except InputError:
            if not samples.made_up:
                raise
            return  # comparing says why random inputs do not run
        self.recipe = self.tuning.recipe

    @cached_property
    def _face(self) -> _Face:
        return _Face.of(self.watched.load())

    @cached_property
    def _calibration_data(self) -> Dataset | None:
        if self.data is None:
            return None
        limit = self.recipe.calibration.samples
        return with_options(self.data, limit=min(limit, self.data.options.limit or limit))

    def _measure(self, module: GraphModule, needs: Sequence[Need]) -> Mapping[str, Facts]:
        """Look facts up among those of the same graph and in the table, and measure what is missing."""
        graph, data = graph_digest(GraphModule(module.model)), self._calibration_data
        known = joined({} if self.table is None else self.table.facts, self.seen.get(graph, {}))
        missing = [need for need in needs if not meets(known, need)]
        if missing and data is None:
            in_no_table = any(need.stats & LEFT_OUT for need in missing)
            again = "" if in_no_table else "calibrate again with the same recipe, or "
            raise CalibrationError(
                "the table says nothing about it, or too little",
                where=f"value {missing[0].value!r}",
                hint=f"{again}give --data",
            )
        if missing and data is not None:
            found = self._collect(module, missing, data)
            self.seen[graph] = joined(self.seen.get(graph, {}), found)
            known = joined(known, found)
        self.table = self.table and replace(self.table, facts=known)
        return known

    def _collect(self, module: GraphModule, needs: Sequence[Need], data: Dataset) -> Mapping[str, Facts]:
        """Measure, and begin a table where there is none."""
        if self.table is not None and self.table.data != data.digest():
            raise CalibrationError(
                "the table lacks some ranges, and this is not the data that it was collected on",
                where=f"data {data.name}",
                hint="give the same data and number of samples, or leave the table out",
            )
        found = collect(
            module.model,
            needs,
            data,
            threads=self.options.threads,
            on_progress=lambda done: self.progress("calibrating", done, data.samples),
        )
        if self.table is None:
            self.table = CalibrationTable(self.watched.digest, data.digest(), found.samples, {})
        return found.facts

    def keep_float(self, poor: OutputAccuracy) -> None:
        """Take the recipe with its layers in float, as its result leaves ``poor`` useless."""
        self.recipe = in_float(self.recipe)
        self.kept_float = (
            f"the recipe's result leaves output {poor.name!r} useless, with {uselessness(poor)}: kept its "
            f"layers in float ({accepting(poor)} for the result); onnxq sensitivity tells what costs it"
        )

    @property
    def _judges_itself(self) -> bool:
        """Whether nobody said how close the result must come, so that it must be of use at least."""
        return self.recipe.gates == self.options.gates == Gates()

    def _require_better(self, accuracy: AccuracyReport) -> None:
        """Raise if the result is useless, and the recipe with its layers in float is another one."""
        has_float = self.recipe.target in TUNED_TARGETS and in_float(self.recipe) != self.recipe
        if self.options.keep_useful and has_float and (poor := useless(accuracy)):
            raise _UselessError(poor[0])

    def finish(
        self,
        module: GraphModule,
        records: Sequence[PassRecord],
        outputs: Outputs,
        validation_data: Dataset | None,
    ) -> CompileResult:
        """Save the model, compare, time, and write what is known beside it: all of it, or nothing."""
        self._stamp(module)
        used = self.table.samples if self.table is not None else 0
        samples = choose_samples(validation_data, self.data, used, self._face.inputs, self.options)
        target = self.recipe.runs_on
        provider, config = usable_provider(target.provider), target.options_for(module)
        output = outputs.model
        with replacing(*outputs.files(module)) as (report, content, *model):
            write_model(module, model)
            tried = model[-1]
            with called(tried, str(output)):
                comparison = compare(
                    self.source, tried, samples, self.options, self.progress, provider, config
                ).about(output)
            judged = comparison.accuracy if self._judges_itself and samples.meaningful else None
            if judged is not None:
                self._require_better(judged)
            manifest = self._manifest(module, records, tried, comparison)
            content.write_text(manifest.to_json(), encoding="utf-8")
            report.write_text(render_report(manifest), encoding="utf-8")
            self.watched.verify()
        for gates in (self.recipe.gates, self.options.gates):
            if comparison.accuracy is not None:
                enforce(comparison.accuracy, gates)
            elif gates != Gates() and self.options.validate:
                raise ToleranceError(
                    "no gate could be measured, as the models were not compared", where=str(output)
                )
        if judged is not None:
            enforce_useful(judged)
        return CompileResult(output, manifest, tuple(records), comparison.accuracy, comparison.latency)

    def _warnings(self, module: GraphModule) -> tuple[str, ...]:
        of_data = (self.data.warning,) if self.data is not None and self.data.warning else ()
        of_tuning = self.tuning.warnings if self.tuning is not None else ()
        unmeasured = self.recipe.gates != Gates() and not self.options.validate
        of_float = (self.kept_float,) if self.kept_float is not None else ()
        of_gates = ("the recipe's gates were not measured, as asked",) if unmeasured else ()
        of_target = self._warnings_of_target(module)
        return of_data + self._face.warnings + of_tuning + of_float + of_target + of_gates

    def _warnings_of_weights(
        self, module: GraphModule, records: Sequence[PassRecord], output: Path
    ) -> tuple[str, ...]:
        """Say what a recipe that quantizes weights left as it was, where that is not told already."""
        names = {pass_.name for pass_ in parse_pipeline(self.recipe.pipeline)}
        told = self.kept_float is not None or (self.tuning is not None and self.tuning.warnings)
        if told or not names & WEIGHT_PASSES:
            return ()
        return warn_of_floats(module, records) + warn_of_size(model_size(self.source), model_size(output))

    def _warnings_of_target(self, module: GraphModule) -> tuple[str, ...]:
        """Say where the result was not run, or where it does not run right."""
        target = self.recipe.runs_on
        if usable_provider(target.provider) is not None:
            return warn_of_saturation(module)
        return (f"provider {target.provider} is not here: compared on the CPU, and not timed",)

    def _stamp(self, module: GraphModule) -> None:
        """Write into the model itself what it is and where it comes from."""
        module.model.metadata_props.update(
            {
                "onnxq.version": installed_versions()["onnxq"],
                "onnxq.recipe": self.recipe.name,
                "onnxq.pipeline": " ".join(self.recipe.pipeline.split()),
                "onnxq.source.sha256": self.watched.digest,
            }
        )

    def _manifest(
        self,
        module: GraphModule,
        records: Sequence[PassRecord],
        output: Path,
        comparison: Comparison,
    ) -> Manifest:
        table, accuracy, latency = self.table, comparison.accuracy, comparison.latency
        assumed = self.recipe.processor
        warnings = (
            *self._warnings(module),
            *self._warnings_of_weights(module, records, output),
            *comparison.warnings,
        )
        name = as_utf8(self.data.name) if self.data is not None else "calibration table"
        return Manifest(
            recipe=self.recipe.decided(),
            source=_model_file(self.source, self.watched.digest),
            output=_model_file(output, model_digest(output)),
            opsets={
                domain or "ai.onnx": version for domain, version in sorted(module.model.opset_imports.items())
            },
            ir_version=module.model.ir_version,
            session_options=self.recipe.runs_on.options_for(module),
            data=None if table is None else DataUsed(name=name, digest=table.data, samples=table.samples),
            table=None if table is None else json.loads(table.for_manifest().to_json()),
            versions={**installed_versions(), **runtime_versions()},
            cpu_flags=cpu_flags(),
            processor=None if assumed is None else ProcessorAssumed.called(assumed),
            passes=summarise(records),
            choices=None if self.choice is None else [plain(asdict(one)) for one in self.choice.trials],
            tuning=None if self.tuning is None else [asdict(verdict) for verdict in self.tuning.verdicts],
            accuracy=None if accuracy is None else accuracy.to_dict(),
            latency=None if latency is None else latency.to_dict(),
            kernels=None if latency is None else latency.models[1].kernels.to_dict(),
            warnings=tuple(map(as_utf8, warnings)),
        )


def _model_file(path: Path, digest: str) -> ModelFile:
    return ModelFile(name=path.name, digest=digest, size_bytes=model_size(path))
