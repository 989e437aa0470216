"""onnxq validate: how far a compiled model lies from its original."""

from __future__ import annotations

from typing import Any

from onnxq.cli.console import progress, remark, show, show_json
from onnxq.cli.options import (
    Candidate,
    DataSettings,
    GateSettings,
    Json,
    MetricName,
    NeededData,
    Provider,
    Reference,
    Threads,
    metric_of,
    provider_of,
)


def run(
    reference: Reference,
    candidate: Candidate,
    *,
    data: NeededData,
    metric: MetricName = None,
    gates: GateSettings,
    provider: Provider = "cpu",
    threads: Threads = None,
    reading: DataSettings,
    as_json: Json = False,
) -> None:
    """Compare compiled model B with its original A on data.

    The exit code is 1 if a gate is missed.
    """
    from onnxq.runtime.gates import Gates, enforce
    from onnxq.runtime.validate import validate

    wanted, judge = gates.over(Gates()), metric_of(metric)
    dataset = reading.open(data, reference)
    with progress() as on_progress:
        report = validate(
            reference,
            candidate,
            dataset.batches(),
            judge,
            provider=provider_of(provider),
            threads=threads,
            on_progress=lambda done, total: on_progress("validating", done, total),
        )
    for note in dataset.notes:
        remark(note)
    _present(report.to_dict(), as_json=as_json)
    enforce(report, wanted)


def _present(accuracy: dict[str, Any], *, as_json: bool) -> None:
    from onnxq.report.tables import accuracy_table, metric_table
    from onnxq.report.text import draw

    if as_json:
        show_json("validate", accuracy)
        return
    show(draw(accuracy_table(accuracy)))
    if accuracy["metric"]:
        show(draw(metric_table(accuracy)))
    show(f"compared on {accuracy['samples']} samples", *accuracy["notes"])
