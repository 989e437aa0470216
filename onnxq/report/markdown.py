"""The report that lies beside a compiled model, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from onnxq.manifest import Manifest
from onnxq.overwriting import REPORT_END
from onnxq.report.tables import (
    Table,
    accuracy_table,
    choices_table,
    conditions,
    file_size,
    floats_table,
    footprint_table,
    frontier_table,
    kernels_table,
    latency_table,
    layers_summary,
    layers_table,
    passes_table,
    precision_table,
    reasons_table,
    result_table,
    session_options,
    skipped_table,
    tuning_table,
)
from onnxq.report.words import markdown, markdown_block
from onnxq.runtime.kernels import Kind

_OPTIMISATION = (
    "Run it with ONNX Runtime's default graph optimisations. Below `ORT_ENABLE_EXTENDED` the integer "
    "kernels are not chosen, and the model is several times slower."
)


def render_report(manifest: Manifest) -> str:
    """Return what was done and why, what was left alone, and what came of it."""
    sections = [_summary(manifest), *_results(manifest), *_work(manifest), *_provenance(manifest), REPORT_END]
    return "\n\n".join(sections) + "\n"


def table_text(table: Table, level: int = 2) -> str:
    """Return the table as Markdown under its title as a heading."""
    marks = ["---"] * table.text_columns + ["---:"] * (len(table.columns) - table.text_columns)
    lines = [_row(table.columns), f"| {' | '.join(marks)} |", *map(_row, table.rows)]
    return "\n".join([f"{'#' * level} {markdown(table.title)}", "", *lines])


def _summary(manifest: Manifest) -> str:
    recipe, version = manifest.recipe, manifest.versions["onnxq"]
    lines = [
        f"# {markdown(manifest.output.name)}",
        "",
        f"Compiled from {markdown(manifest.source.name)} by onnxq {version} with the recipe "
        f"{markdown(recipe.name)} for the target {recipe.target}.",
        *_warnings(manifest),
    ]
    return "\n".join(lines)


def _warnings(manifest: Manifest) -> Iterator[str]:
    for warning in manifest.warnings:
        yield ""
        yield f"> **Warning:** {markdown(warning)}"


def _results(manifest: Manifest) -> Iterator[str]:
    accuracy, latency, kernels = manifest.accuracy, manifest.latency, manifest.kernels
    yield table_text(result_table(manifest))
    if manifest.frontier:
        yield table_text(frontier_table(manifest.frontier))
    if accuracy:
        yield table_text(accuracy_table(accuracy))
        yield "\n".join([f"Compared on {accuracy.samples} samples.", *map(markdown, accuracy.notes)])
    if latency:
        yield table_text(latency_table(latency))
        yield markdown(conditions(latency))
        yield table_text(footprint_table(latency))
    if kernels:
        yield table_text(kernels_table(kernels))
    if kernels and kernels.provenance.layers:
        yield table_text(layers_table(kernels.provenance, limit=24))
        yield markdown(layers_summary(kernels.provenance))
    yield _requirements(manifest)
    if kernels and kernels.kinds[Kind.INTEGER]:
        yield _OPTIMISATION
    if manifest.choices:
        yield table_text(choices_table(manifest.choices))
    if manifest.precision:
        yield table_text(precision_table(manifest.precision))
    if manifest.tuning:
        yield table_text(tuning_table(manifest.tuning))


def _requirements(manifest: Manifest) -> str:
    domains = ", ".join(f"{domain} {version}" for domain, version in sorted(manifest.opsets.items()))
    known = f"IR version {manifest.ir_version} and the operator sets {domains}"
    return markdown(" ".join([f"It needs a runtime that knows {known}.", *session_options(manifest)]))


def _work(manifest: Manifest) -> Iterator[str]:
    yield table_text(passes_table(manifest.passes))
    yield table_text(reasons_table(manifest.passes))
    skipped = skipped_table(manifest.passes)
    if skipped.rows:
        yield table_text(skipped)
    if manifest.floats:
        yield table_text(floats_table(manifest.floats))
    yield f"## Recipe\n\n{markdown_block(manifest.recipe.pipeline.strip())}"


def _provenance(manifest: Manifest) -> Iterator[str]:
    yield table_text(_origins(manifest))
    yield table_text(Table("Versions", ("package", "version"), tuple(manifest.versions.items()), 2))
    flags = ", ".join(manifest.cpu_flags) or "unknown"
    yield f"CPU features that matter here: {flags}."
    if processor := manifest.processor:
        yield f"Compiled for the processor {processor.name}; its products: {processor.summary}."


def _origins(manifest: Manifest) -> Table:
    rows = [
        (kind, model.name, file_size(model.size_bytes), model.digest)
        for kind, model in (("source", manifest.source), ("output", manifest.output))
    ]
    if data := manifest.data:
        rows.append(("data", data.name, f"{data.samples} samples", data.digest))
    return Table("Provenance", ("", "name", "size", "SHA-256"), tuple(rows), 4)


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(map(markdown, cells))} |"
