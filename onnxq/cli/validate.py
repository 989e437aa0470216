"""onnxq validate: how far a compiled model lies from its original."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxq.cli.console import progress, remark, show, show_json
from onnxq.cli.options import (
    Candidate,
    GateSettings,
    Json,
    MetricName,
    NeededDataSettings,
    Reference,
    SessionSettings,
    Threads,
    metric_of,
)

if TYPE_CHECKING:
    from onnxq.calibration.data import Dataset
    from onnxq.runtime.invariance import InvarianceReport
    from onnxq.runtime.run import Run
    from onnxq.runtime.validate import AccuracyReport

Invariance = Annotated[
    bool,
    typer.Option(
        "--invariance", help="Also check that B gives a sample the same result alone, padded and in a batch."
    ),
]


@dataclass(frozen=True)
class UntimedSettings(SessionSettings):
    """Where and how models run that are not timed."""

    threads: Threads = None


def run(
    reference: Reference,
    candidate: Candidate,
    *,
    reading: NeededDataSettings,
    metric: MetricName = None,
    invariance: Invariance = False,
    gates: GateSettings,
    running: UntimedSettings,
    as_json: Json = False,
) -> None:
    """Compare compiled model B with its original A on data.

    The exit code is 1 if a gate is missed, or if a sample's result moves with its batch.
    """
    from onnxq.runtime.gates import Gates, enforce, require_measurable
    from onnxq.runtime.invariance import check_invariance, require_invariance
    from onnxq.runtime.seeded import open_comparable
    from onnxq.runtime.validate import validate

    models = reference, candidate
    runs = [running.run().with_defaults(running.asked_by(model)) for model in models]
    wanted, judge = gates.over(Gates()), metric_of(metric)
    require_measurable(wanted, compared=True, has_metric=judge is not None)
    dataset = reading.open(reference)
    for model, run in zip(models, runs, strict=True):
        _require_provider(model, dataset, run, running.allow_fallback or ())
    original, compiled = map(open_comparable, models, runs)
    with progress() as on_progress:
        report = validate(
            original,
            compiled,
            dataset.batches(),
            judge,
            on_progress=lambda done, _: on_progress("comparing", done, dataset.expected),
        )
    for note in dataset.notes:
        remark(note)
    _warn(reference, candidate, report, on_cpu=runs[1].provider == "cpu")
    found = check_invariance(candidate, next(dataset.batches()).feeds, runs[1]) if invariance else None
    _present(report, found, as_json=as_json)
    enforce(report, wanted)
    if found:
        require_invariance(found)


def _warn(reference: Path, candidate: Path, report: AccuracyReport, *, on_cpu: bool) -> None:
    """Tell of all that makes the numbers doubtful, or the candidate."""
    from onnxq.warned import warn_of_accuracy, warn_of_saturation

    saturation = warn_of_saturation(candidate) if on_cpu else ()
    for warning in (*_strangers(reference, candidate), *warn_of_accuracy(report.outputs), *saturation):
        remark(warning, "warning")


def _strangers(reference: Path, candidate: Path) -> list[str]:
    """Tell of a model that is not the one of the manifest beside the candidate."""
    from onnxq.manifest import manifest_path, read_manifest
    from onnxq.story import strangers

    beside = manifest_path(candidate)
    return strangers(read_manifest(beside), reference, candidate) if beside.is_file() else []


def _require_provider(model: Path, data: Dataset, run: Run, allowed: Collection[str]) -> None:
    """Refuse a model that runs elsewhere than asked for; on the CPU there is nowhere else."""
    from onnxq.runtime.fallback import refuse_fallback
    from onnxq.runtime.kernels import kernel_report

    batch = next(iter(data.batches()), None) if run.provider != "cpu" else None
    if batch is not None:
        refuse_fallback(model.name, kernel_report(model, batch.feeds, run, runs=1), allowed)


def _present(accuracy: AccuracyReport, invariance: InvarianceReport | None, *, as_json: bool) -> None:
    from onnxq.report.tables import accuracy_table, invariance_table, metric_table
    from onnxq.report.text import draw

    if as_json:
        extra = {} if invariance is None else {"invariance": invariance.to_dict()}
        show_json("validate", {**accuracy.to_dict(), **extra})
        return
    show(draw(accuracy_table(accuracy)))
    if accuracy.metric:
        show(draw(metric_table(accuracy)))
    if invariance:
        show(draw(invariance_table(invariance)))
    show(f"compared on {accuracy.samples} samples", *accuracy.notes)
