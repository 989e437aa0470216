"""Compiling a model: what the front door names, with the report that people read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from onnxq.calibration.data import Dataset
from onnxq.calibration.table import CalibrationTable
from onnxq.comparison import CompileOptions
from onnxq.compilation import Compilation, CompileResult
from onnxq.engine.source import Source
from onnxq.errors import CalibrationError
from onnxq.ir.store import model_files
from onnxq.outputs import Outputs
from onnxq.passmanager.instruments import Instrument
from onnxq.progress import Progress, quiet
from onnxq.recipe import Recipe
from onnxq.report.markdown import render_report
from onnxq.runtime.gates import require_measurable


def compile_model(
    source: Source | Path | str,
    output: Path | str,
    *,
    recipe: Recipe,
    data: Dataset | None = None,
    table: CalibrationTable | None = None,
    instruments: Sequence[Instrument] = (),
    options: CompileOptions | None = None,
    on_progress: Progress = quiet,
) -> CompileResult:
    """Compile ``source`` into ``output``, with a manifest and a report beside it.

    All are written together or not at all, and replace files of the same kinds that onnxq wrote, no others.

    Args:
        source: An ONNX model, or its file; it is only read.
        output: Where the compiled model goes.
        recipe: Which passes, for which target.
        data: Samples to measure ranges on; what lies beyond those is used to validate.
        table: Ranges that were measured before, instead of ``data``.
        instruments: What watches the passes.
        options: What happens around them.
        on_progress: Called as the work goes on.

    Raises:
        OnnxqError: What is wrong, where, and what to do; the outputs are then as they were before,
            except for a missed gate, which leaves them for inspection.
        KeyboardInterrupt: The same; it says what was measured that the next run finds again.

    """
    options = options or CompileOptions()
    require_measurable(options.gates, compared=options.validate, has_metric=options.metric is not None)
    on_progress("reading the source", 0, None)
    opened = source if isinstance(source, Source) else Source.of(Path(source))
    work = Compilation(opened, recipe.settled(), data, options, on_progress)
    outputs = Outputs(Path(output), tuple(_read(work)), options.force)
    outputs.files(work.source.module)  # what cannot be written is better known now
    if table is not None:
        work.accept(table)
    else:
        work.hold_back()
    with work.kept_when_interrupted():
        if options.choose and recipe.choices:
            work.choose()
        if work.holds_floor and options.validate:
            work.hold_floor()
        if options.tune and options.bench and work.is_tunable:
            work.tune()
        return work.finish(work.built(instruments), outputs, render_report)


def _read(work: Compilation) -> Iterator[Path]:
    """Yield what a compilation reads, which must not be replaced."""
    yield from model_files(work.source.path)
    yield from work.options.also_read
    for data in (work.data, work.options.validation_data):
        yield from data.paths if data is not None else ()


def calibrate_model(
    source: Path | str, data: Dataset, *, recipe: Recipe, on_progress: Progress = quiet
) -> CalibrationTable:
    """Measure what the recipe's passes need, and return it as a table for later compilations.

    Raises:
        CalibrationError: No pass of the recipe needs data for this model.

    """
    on_progress("reading the source", 0, None)
    work = Compilation(Source.of(Path(source)), recipe, data, CompileOptions(), on_progress)
    work.hold_back()
    with work.kept_when_interrupted():
        table = work.table_of(work.built(()))
    work.source.verify()
    if table is None:
        raise CalibrationError(
            f"no pass needs data for {work.source.path.name}",
            where=f"recipe {recipe.name}",
            hint="the model has nothing that it quantizes, or another recipe has to be chosen: onnxq recipes",
        )
    return table
