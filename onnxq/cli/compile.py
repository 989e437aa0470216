"""onnxq compile: from a model and data to a smaller, faster model with its manifest and report."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from onnxq.cli.choose import RecipeSettings, choose_table
from onnxq.cli.console import progress, remark, show, show_json
from onnxq.cli.options import (
    DataSettings,
    GateSettings,
    Json,
    MetricName,
    Model,
    Processes,
    Threads,
    metric_of,
)
from onnxq.errors import RecipeError, TargetError, ToleranceError, did_you_mean

if TYPE_CHECKING:
    from onnxq.calibration.table import CalibrationTable
    from onnxq.comparison import CompileOptions
    from onnxq.manifest import Manifest
    from onnxq.passmanager.instruments import Instrument
    from onnxq.recipe import Recipe

_WATCH = "Watching the passes"
WITHOUT_DATA = (
    "no --data: activations are quantized at run time. With data their ranges are measured once, results "
    "no longer move with batch and padding, and convolutions run in int8 too."
)

Output = Annotated[
    Path, typer.Option("-o", "--output", metavar="OUT", help="Where the result goes.", show_default=False)
]


@dataclass(frozen=True, kw_only=True)
class RangeSettings(DataSettings):
    """Where ranges come from."""

    table: Annotated[
        Path | None,
        typer.Option("--table", metavar="TABLE", help="Ranges from onnxq calibrate.", show_default=False),
    ] = None

    def measured(self, recipe: str | None) -> CalibrationTable | None:
        """Return the table that was given, or else, without data, that of a manifest given as recipe.

        Raises:
            OnnxqError: The file is no table, or no manifest.

        """
        return choose_table(self.table, None if self.data else recipe)


@dataclass(frozen=True)
class WorkSettings:
    """What happens besides the passes."""

    threads: Threads = None
    processes: Processes = 1
    no_choose: Annotated[
        bool, typer.Option("--no-choose", help="Take the recipe's options as they stand; try no others.")
    ] = False
    tune: Annotated[
        bool | None,
        typer.Option(
            "--tune/--no-tune",
            help="Time forms of the graph first, where it shall run; keep int8 only where it is faster. "
            "Default: shipped recipes.",
        ),
    ] = None
    prefer: Annotated[
        Literal["speed", "balanced", "size"],
        typer.Option(
            metavar="GOAL",
            help="What counts where forms are timed: int8 gives way to float where that is so much faster "
            "that it is worth its bytes (balanced), wherever it is faster (speed), or never (size).",
        ),
    ] = "balanced"
    no_bench: Annotated[bool, typer.Option("--no-bench", help="Do not time the models.")] = False
    no_validate: Annotated[
        bool, typer.Option("--no-validate", help="Do not compare the models; the result is only opened.")
    ] = False
    metric: MetricName = None
    custom_ops: Annotated[
        list[Path] | None,
        typer.Option(
            "--custom-ops",
            metavar="LIBRARY",
            help="A library of operators that ONNX Runtime shall load; may be repeated.",
        ),
    ] = None
    force: Annotated[bool, typer.Option("--force", help="Replace a file that onnxq did not write.")] = False

    def name_libraries(self) -> None:
        """Let all sessions, here and in processes that are begun, know the operators of the libraries."""
        from onnxq.runtime.libraries import LIBRARIES

        if self.custom_ops:
            os.environ[LIBRARIES] = os.pathsep.join(map(str, self.custom_ops))

    def require_tunable(self, recipe: Recipe) -> None:
        """Refuse to tune for what is not here.

        Raises:
            TargetError: Forms are to be timed on a provider that is missing.

        """
        from onnxq.runtime.session import usable_provider

        provider = recipe.runs_on.provider
        if self.tune and usable_provider(provider) is None:
            raise TargetError(
                f"--tune times forms on provider {provider}, which is not here",
                where=f"target {recipe.target}",
                hint="onnxq doctor tells what is missing; without --tune the recipe is taken as it is",
            )

    def options(self, *, shipped: bool, also_read: tuple[Path, ...]) -> CompileOptions:
        """Return the library's options; forms are timed, and layers kept in float, of ``shipped`` recipes.

        Raises:
            RecipeError: There is no such metric.

        """
        from onnxq.comparison import CompileOptions

        return CompileOptions(
            validate=not self.no_validate,
            bench=not self.no_bench,
            choose=not self.no_choose,
            tune=shipped if self.tune is None else self.tune,
            prefer=self.prefer,
            keep_floor=shipped,
            threads=self.threads,
            processes=self.processes,
            metric=metric_of(self.metric),
            force=self.force,
            also_read=also_read,
        )


@dataclass(frozen=True)
class WatchSettings:
    """What to see of the passes at work."""

    print_after: Annotated[
        list[str] | None,
        typer.Option(metavar="PASS|all", help="Print the graph after a pass.", rich_help_panel=_WATCH),
    ] = None
    dump: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write the graph after each pass.", rich_help_panel=_WATCH),
    ] = None
    time_passes: Annotated[
        bool, typer.Option("--time-passes", help="Print what each pass did and took.", rich_help_panel=_WATCH)
    ] = False
    bisect_limit: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Run only the first N passes.", rich_help_panel=_WATCH),
    ] = None

    def instruments(self, recipe: Recipe) -> Iterator[Instrument]:
        """Yield what watches the passes.

        Raises:
            RecipeError: The graph shall be printed after a pass that the recipe does not have.

        """
        from onnxq.passmanager.instruments import BisectLimit, DumpTo, PrintAfter
        from onnxq.passmanager.pipeline import parse_pipeline

        names = [pass_.name for pass_ in parse_pipeline(recipe.pipeline)]
        for name in self.print_after or ():
            if name not in ("all", *names):
                raise RecipeError(
                    f"the recipe {recipe.name!r} has no pass {name!r}",
                    where="--print-after",
                    hint=did_you_mean(name, names),
                )
        if self.bisect_limit is not None:
            remark(f"--bisect-limit: only the first {self.bisect_limit} passes run")
            yield BisectLimit(self.bisect_limit)
        yield from (PrintAfter(name) for name in self.print_after or ())
        if self.dump is not None:
            yield DumpTo(self.dump)


def run(
    model: Model,
    *,
    output: Output,
    ranges: RangeSettings,
    wanted: RecipeSettings,
    work: WorkSettings,
    gates: GateSettings,
    watch: WatchSettings,
    as_json: Json = False,
) -> None:
    """Compile MODEL into a smaller, faster one; validate and time it.

    Writes OUT.onnx, OUT.manifest.json and OUT.report.md. `--recipe OUT.manifest.json` repeats the run; with
    `--data`, where a pass needs more of it than ranges.
    """
    from onnxq.engine.source import Source

    source = Source.of(model)  # hashed while the rest is imported
    work.name_libraries()
    from onnxq.compile import compile_model
    from onnxq.heap import keep_imported
    from onnxq.manifest import manifest_path, read_manifest

    keep_imported()
    tell = partial(present, output, as_json=as_json, with_passes=watch.time_passes)
    measured = ranges.measured(wanted.recipe)
    options = work.options(shipped=wanted.is_shipped, also_read=_files(ranges.table, wanted.recipe))
    gates.require_measurable(compared=options.validate, has_metric=options.metric is not None)
    recipe = gates.into(wanted.choose(has_data=bool(ranges.data or measured)))
    work.require_tunable(recipe)
    dataset = ranges.open(model, source=source, tell=False)
    _remark_all([WITHOUT_DATA] if wanted.none_chosen and "quantize-dynamically" in recipe.pipeline else [])
    try:
        with progress() as on_progress:
            manifest = compile_model(
                source,
                output,
                recipe=recipe,
                data=dataset,
                table=measured,
                instruments=[_reproducer(output, recipe), *watch.instruments(recipe)],
                options=options,
                on_progress=on_progress,
            ).manifest
    except ToleranceError:
        tell(read_manifest(manifest_path(output)), passed=False)
        raise
    _remark_all(dataset.notes if dataset else ())
    tell(manifest, passed=True)


def _remark_all(notes: Iterable[str]) -> None:
    for note in notes:
        remark(note)


def present(
    output: Path, manifest: Manifest, *, as_json: bool, passed: bool, with_passes: bool = False
) -> None:
    """Print what a compilation gave."""
    from onnxq.manifest import manifest_path, report_path
    from onnxq.report.tables import passes_table
    from onnxq.report.text import compilation, draw

    files = {"output": output, "manifest_file": manifest_path(output), "report_file": report_path(output)}
    if as_json:
        content = manifest.model_dump(mode="json", exclude={"table"})
        paths = {key: str(path) for key, path in files.items()}
        show_json("compile", {**paths, "passed": passed, "manifest": content})
        return
    if with_passes:
        show(draw(passes_table(manifest.passes)))
    *work, result = compilation(manifest)
    show(*work, *(f"wrote {path}" for path in files.values()), "")
    for warning in manifest.warnings:
        remark(warning, "warning")
    show(result)


def _reproducer(output: Path, recipe: Recipe) -> Instrument:
    """Return what writes a failing pass and its graph into a folder beside ``output``."""
    from onnxq.manifest import failed_path
    from onnxq.passmanager.reproducer import Reproducer

    return Reproducer(failed_path(output), recipe.runs_on, recipe.precision)


def _files(*named: Path | str | None) -> tuple[Path, ...]:
    """Return the files among these: a recipe may be a name, too."""
    return tuple(Path(name) for name in named if name is not None and os.path.isfile(name))
