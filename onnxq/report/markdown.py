"""The report that lies beside a compiled model, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from onnxq.overwriting import REPORT_END
from onnxq.report.tables import (
    Table,
    accuracy_table,
    choices_table,
    conditions,
    file_size,
    footprint_table,
    kernels_table,
    latency_table,
    layers_summary,
    layers_table,
    passes_table,
    reasons_table,
    result_table,
    session_options,
    skipped_table,
    tuning_table,
)
from onnxq.report.words import markdown, markdown_block

_OPTIMISATION = (
    "Run it with ONNX Runtime's default graph optimisations. Below `ORT_ENABLE_EXTENDED` the integer "
    "kernels are not chosen, and the model is several times slower."
)


class Manifest(Protocol):
    """What a report is made from; see ``onnxq.manifest``."""

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """Return the content as plain values."""
        ...


def render_report(manifest: Manifest) -> str:
    """Return what was done and why, what was left alone, and what came of it."""
    content = manifest.model_dump(mode="json")
    sections = [_summary(content), *_results(content), *_work(content), *_provenance(content), REPORT_END]
    return "\n\n".join(sections) + "\n"


def table_text(table: Table, level: int = 2) -> str:
    """Return the table as Markdown under its title as a heading."""
    marks = ["---"] * table.text_columns + ["---:"] * (len(table.columns) - table.text_columns)
    lines = [_row(table.columns), f"| {' | '.join(marks)} |", *map(_row, table.rows)]
    return "\n".join([f"{'#' * level} {markdown(table.title)}", "", *lines])


def _summary(content: Mapping[str, Any]) -> str:
    source, output, recipe = content["source"], content["output"], content["recipe"]
    lines = [
        f"# {markdown(output['name'])}",
        "",
        f"Compiled from {markdown(source['name'])} by onnxq {content['versions']['onnxq']} with the recipe "
        f"{markdown(recipe['name'])} for the target {recipe['target']}.",
        *_warnings(content),
    ]
    return "\n".join(lines)


def _warnings(content: Mapping[str, Any]) -> Iterator[str]:
    for warning in content["warnings"]:
        yield ""
        yield f"> **Warning:** {markdown(warning)}"


def _results(content: Mapping[str, Any]) -> Iterator[str]:
    accuracy, latency, kernels = content["accuracy"], content["latency"], content["kernels"]
    yield table_text(result_table(content))
    if accuracy:
        yield table_text(accuracy_table(accuracy))
        yield "\n".join([f"Compared on {accuracy['samples']} samples.", *map(markdown, accuracy["notes"])])
    if latency:
        yield table_text(latency_table(latency))
        yield markdown(conditions(latency))
        yield table_text(footprint_table(latency))
    if kernels:
        yield table_text(kernels_table(kernels))
    if kernels and kernels["layers"]:
        yield table_text(layers_table(kernels, limit=24))
        yield markdown(layers_summary(kernels))
    yield _requirements(content)
    if kernels and kernels["kinds"]["integer"]:
        yield _OPTIMISATION
    if content["choices"]:
        yield table_text(choices_table(content["choices"]))
    if content["tuning"]:
        yield table_text(tuning_table(content["tuning"]))


def _requirements(content: Mapping[str, Any]) -> str:
    domains = ", ".join(f"{domain} {version}" for domain, version in sorted(content["opsets"].items()))
    known = f"IR version {content['ir_version']} and the operator sets {domains}"
    return markdown(" ".join([f"It needs a runtime that knows {known}.", *session_options(content)]))


def _work(content: Mapping[str, Any]) -> Iterator[str]:
    yield table_text(passes_table(content["passes"]))
    yield table_text(reasons_table(content["passes"]))
    skipped = skipped_table(content["passes"])
    if skipped.rows:
        yield table_text(skipped)
    yield f"## Recipe\n\n{markdown_block(content['recipe']['pipeline'].strip())}"


def _provenance(content: Mapping[str, Any]) -> Iterator[str]:
    yield table_text(_origins(content))
    yield table_text(Table("Versions", ("package", "version"), tuple(content["versions"].items()), 2))
    flags = ", ".join(content["cpu_flags"]) or "unknown"
    yield f"CPU features that matter here: {flags}."
    if processor := content.get("processor"):
        yield f"Compiled for the processor {processor['name']}; its products: {processor['summary']}."


def _origins(content: Mapping[str, Any]) -> Table:
    rows = [
        (kind, content[kind]["name"], file_size(content[kind]["size_bytes"]), content[kind]["digest"])
        for kind in ("source", "output")
    ]
    if data := content["data"]:
        rows.append(("data", data["name"], f"{data['samples']} samples", data["digest"]))
    return Table("Provenance", ("", "name", "size", "SHA-256"), tuple(rows), 4)


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(map(markdown, cells))} |"
