"""onnxq validate: how far a compiled model lies from its original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxq.cli.console import progress, remark, show, show_json
from onnxq.cli.options import (
    AllowFallback,
    Candidate,
    DataSettings,
    GateSettings,
    Json,
    MetricName,
    NeededData,
    Provider,
    Reference,
    SessionSettings,
    Threads,
    metric_of,
    provider_of,
)

if TYPE_CHECKING:
    from onnxq.calibration.data import Dataset
    from onnxq.runtime.invariance import InvarianceReport
    from onnxq.runtime.session import Provider as ProviderName
    from onnxq.runtime.validate import AccuracyReport

Invariance = Annotated[
    bool,
    typer.Option(
        "--invariance", help="Also check that B gives a sample the same result alone, padded and in a batch."
    ),
]


def run(
    reference: Reference,
    candidate: Candidate,
    *,
    data: NeededData,
    metric: MetricName = None,
    invariance: Invariance = False,
    gates: GateSettings,
    provider: Provider = "cpu",
    allow_fallback: AllowFallback = None,
    threads: Threads = None,
    opening: SessionSettings,
    reading: DataSettings,
    as_json: Json = False,
) -> None:
    """Compare compiled model B with its original A on data.

    The exit code is 1 if a gate is missed, or if a sample's result moves with its batch.
    """
    from onnxq.runtime.gates import Gates, enforce, require_measurable
    from onnxq.runtime.invariance import check_invariance, require_invariance
    from onnxq.runtime.validate import validate

    opening.require(provider_of(provider))
    configs = opening.config(reference), opening.config(candidate)
    wanted, judge = gates.over(Gates()), metric_of(metric)
    require_measurable(wanted, compared=True, has_metric=judge is not None)
    dataset = reading.open(data, reference)
    for model, config in zip((reference, candidate), configs, strict=True):
        _require_provider(model, dataset, provider_of(provider), threads, allow_fallback or (), config)
    with progress() as on_progress:
        report = validate(
            reference,
            candidate,
            dataset.batches(),
            judge,
            provider=provider_of(provider),
            threads=threads,
            configs=configs,
            cuda_graph=opening.cuda_graph,
            on_progress=lambda done, total: on_progress("validating", done, total),
        )
    for note in dataset.notes:
        remark(note)
    _warn(reference, candidate, report, on_cpu=provider_of(provider) == "cpu")
    found = None
    if invariance:
        feeds = next(dataset.batches()).feeds
        found = check_invariance(
            candidate, feeds, provider=provider_of(provider), threads=threads, config=configs[1]
        )
    _present(report.to_dict(), found, as_json=as_json)
    enforce(report, wanted)
    if found:
        require_invariance(found)


def _warn(reference: Path, candidate: Path, report: AccuracyReport, *, on_cpu: bool) -> None:
    """Tell of all that makes the numbers doubtful, or the candidate."""
    from onnxq.comparison import warn_of_accuracy, warn_of_saturation

    saturation = warn_of_saturation(candidate) if on_cpu else ()
    for warning in (*_strangers(reference, candidate), *warn_of_accuracy(report.outputs), *saturation):
        remark(warning, "warning")


def _strangers(reference: Path, candidate: Path) -> list[str]:
    """Tell of a model that is not the one of the manifest beside the candidate."""
    from onnxq.manifest import manifest_path
    from onnxq.story import read_manifest, strangers

    beside = manifest_path(candidate)
    return strangers(read_manifest(beside), reference, candidate) if beside.is_file() else []


def _require_provider(
    model: Path,
    data: Dataset,
    provider: ProviderName,
    threads: int | None,
    allowed: Sequence[str],
    config: Mapping[str, str],
) -> None:
    """Refuse a model that runs elsewhere than asked for; on the CPU there is nowhere else."""
    from onnxq.runtime.fallback import refuse_fallback
    from onnxq.runtime.kernels import kernel_report

    batch = next(iter(data.batches()), None) if provider != "cpu" else None
    if batch is not None:
        report = kernel_report(model, batch.feeds, provider, threads, config=config, runs=1)
        refuse_fallback(model.name, report, allowed)


def _present(accuracy: dict[str, Any], invariance: InvarianceReport | None, *, as_json: bool) -> None:
    from onnxq.report.tables import accuracy_table, invariance_table, metric_table
    from onnxq.report.text import draw

    if as_json:
        extra = {} if invariance is None else {"invariance": invariance.to_dict()}
        show_json("validate", {**accuracy, **extra})
        return
    show(draw(accuracy_table(accuracy)))
    if accuracy["metric"]:
        show(draw(metric_table(accuracy)))
    if invariance:
        show(draw(invariance_table(invariance.to_dict())))
    show(f"compared on {accuracy['samples']} samples", *accuracy["notes"])
