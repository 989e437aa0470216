"""onnxq report: the whole story of a compilation, from its manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxq.cli.console import remark, show, show_json
from onnxq.cli.options import DataSettings, Json
from onnxq.errors import RecipeError
from onnxq.overwriting import PAGE, refuse_overwriting

if TYPE_CHECKING:
    from onnxq.story import Story

ManifestFile = Annotated[
    Path,
    typer.Argument(
        metavar="MANIFEST", help="A .manifest.json, as onnxq compile writes it.", show_default=False
    ),
]
Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="OUT", help="Write a page to look at, as one file.", show_default=False),
]
Source = Annotated[
    Path | None,
    typer.Option(
        "--source",
        metavar="MODEL",
        help="With --data: the model that was compiled, to measure histograms and channels on.",
        show_default=False,
    ),
]


def run(
    manifest: ManifestFile,
    *,
    html: Html = None,
    source: Source = None,
    reading: DataSettings,
    as_json: Json = False,
) -> None:
    """Tell what a compilation did, why, and what came of it.

    Encodings come from the compiled model beside the manifest. Histograms are shown of what was
    calibrated with them; with --source and --data they are measured now.
    """
    from onnxq.report.tables_of_story import story_tables
    from onnxq.report.text import draw
    from onnxq.story import read_story

    if (source is None) != (reading.data is None):
        raise RecipeError("--source and --data belong together", hint="give both, or neither")
    if html is not None:
        refuse_overwriting(html, PAGE, inputs=[manifest])
    dataset = None if source is None else reading.open(source)
    story = read_story(manifest, source, dataset)
    if html is not None:
        _write(html, manifest, story)
    if as_json:
        show_json("report", story.to_dict())
        return
    show(*map(draw, story_tables(story)))
    for warning in story.manifest.warnings:
        remark(warning, "warning")


def _write(path: Path, manifest: Path, story: Story) -> None:
    from onnxq.diff.flat import Flat
    from onnxq.diff.picture import picture_of_model
    from onnxq.ir.store import load_model
    from onnxq.report.page.write import write_page
    from onnxq.report.tables_of_story import story_charts, story_facts, story_tables, warnings_table

    told = story.manifest
    output = manifest.with_name(told.output.name)
    drawn = None
    if output.is_file():
        drawn = picture_of_model(Flat.of(load_model(output).model), output.name, told.kernels)
    write_page(
        path,
        f"{told.source.name} → {told.output.name}",
        kind="report",
        facts=story_facts(told),
        picture=drawn,
        tables=[warnings_table(told), *story_tables(story, limit=None)],
        charts=story_charts(story),
    )
    remark(f"wrote {path}")
