"""Tables on the terminal, at most 80 columns wide where nothing longer must be read."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from onnxq.manifest import DataUsed, Manifest
from onnxq.report.tables import (
    Table,
    conditions,
    floats_summary,
    frontier_table,
    layers_summary,
    result_table,
    session_options,
    skipped_table,
)
from onnxq.report.words import printable


def draw(table: Table) -> RenderableType:
    """Return the table for rich: its title, header and rows, a blank line after it; long text is folded."""
    drawn = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, show_header=any(table.columns))
    for index, column in enumerate(table.columns):
        is_text = index < table.text_columns
        drawn.add_column(
            Text(printable(column)),
            justify="left" if is_text else "right",
            overflow="fold",
            no_wrap=not is_text,
        )
    for row in table.rows:
        drawn.add_row(*(Text(printable(cell)) for cell in row))
    return Group(Text(printable(table.title), "bold"), drawn, "")


def measured(data: DataUsed) -> str:
    """Return a line on what was measured."""
    known = f"; {data.recalled} were known from earlier runs" if data.recalled else ""
    return f"Measured {data.measured} values on {data.samples} samples{known}."


def compilation(manifest: Manifest) -> Iterator[RenderableType]:
    """Yield what to print of a compilation: what was left alone, kernels, and last the results."""
    skipped = skipped_table(manifest.passes)
    if skipped.rows:
        yield draw(skipped)
    if manifest.data:
        yield measured(manifest.data)
    if manifest.kernels:
        counts = manifest.kernels.kinds.items()
        yield f"Nodes that ran: {', '.join(f'{count} {kind}' for kind, count in counts if count)}."
        yield f"{layers_summary(manifest.kernels.provenance)}\n"
    yield from session_options(manifest)
    if manifest.latency:
        yield f"{conditions(manifest.latency)}\n"
    if manifest.frontier:
        yield draw(frontier_table(manifest.frontier))
    yield draw(result_table(manifest))
    yield from (f"{sentence}\n" for sentence in floats_summary(manifest))
