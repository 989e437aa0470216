"""onnxq diff: what changed between two models, whoever made them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxq.cli.console import remark, show, show_json
from onnxq.cli.options import DataSettings, Json, StrictRunSettings
from onnxq.overwriting import PAGE, refuse_overwriting

if TYPE_CHECKING:
    from onnxq.diff.models import Aligned
    from onnxq.diff.result import ModelDiff

Before = Annotated[
    Path,
    typer.Argument(metavar="A", help="An .onnx file, or an .onnxtxt that --dump wrote.", show_default=False),
]
After = Annotated[Path, typer.Argument(metavar="B", help="Another one.", show_default=False)]
Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="OUT", help="Write a page to look at, as one file.", show_default=False),
]
FailOn = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-on",
        metavar="RULE",
        help="Exit with 1 only if the rule holds: 'sqnr_db<20', 'removed>0', 'bytes>0'; may be repeated.",
        show_default=False,
    ),
]
AsMany = Annotated[bool, typer.Option("--all", help="Print every row of every table.")]


def run(
    before: Before,
    after: After,
    *,
    html: Html = None,
    fail_on: FailOn = None,
    everything: AsMany = False,
    reading: DataSettings,
    running: StrictRunSettings,
    as_json: Json = False,
) -> None:
    """Show what changed from model A to model B.

    Nodes are aligned by function, weights, names and neighbours, so that models that other tools made
    are understood too. With data both are run, and errors and kernel times are shown.
    The exit code is that of diff: 0 if nothing differs but names, 1 if something does, 2 for trouble.
    """
    from onnxq.diff.models import align_models
    from onnxq.diff.rules import parse_rule

    if html is not None:
        refuse_overwriting(html, PAGE, inputs=[before, after])
    rules = [parse_rule(text) for text in fail_on or ()]
    dataset = reading.open(before)
    found = align_models(
        before,
        after,
        None if dataset is None else dataset.batches(),
        running.run(),
        allow_fallback=running.allow_fallback or (),
    )
    diff = found.diff
    hit = [str(rule) for rule in rules if rule.hits(diff)]
    if html is not None:
        _write(html, found)
    if as_json:
        show_json("diff", {**diff.to_dict(), "failed": hit})
    else:
        _present(diff, limit=not everything)
    if hit or (not rules and diff):
        raise typer.Exit(1)


def _write(path: Path, found: Aligned) -> None:
    from onnxq.diff.picture import picture_of_diff
    from onnxq.report.charts import diff_charts
    from onnxq.report.page.write import write_page
    from onnxq.report.tables_of_diff import changes_table, diff_facts, diff_tables, tensors_table

    diff = found.diff
    write_page(
        path,
        f"{diff.before.name} → {diff.after.name}",
        kind="diff",
        facts=diff_facts(diff),
        picture=picture_of_diff(found),
        tables=[*diff_tables(diff, limit=None), changes_table(diff), tensors_table(diff)],
        charts=diff_charts(diff),
    )
    remark(f"wrote {path}")


def _present(diff: ModelDiff, *, limit: bool) -> None:
    from onnxq.report.tables_of_diff import LIMIT, diff_tables
    from onnxq.report.text import draw

    if not diff:
        show("nothing differs but, perhaps, names")
        return
    show(*map(draw, diff_tables(diff, LIMIT if limit else None)))
    if diff.measured:
        show(f"compared on {diff.measured.samples} samples", *diff.measured.notes)
