"""onnxq inspect: what is in a model, and which kernels it runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxq.cli.console import remark, show, show_json
from onnxq.cli.options import DataSettings, Json, Model, RunSettings
from onnxq.errors import RecipeError
from onnxq.overwriting import PAGE, refuse_overwriting

if TYPE_CHECKING:
    from onnxq.inspection import Inspection
    from onnxq.ir.module import GraphModule
    from onnxq.runtime.kernels import KernelReport

Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="OUT", help="Write a page to look at, as one file.", show_default=False),
]

ELIDE_ABOVE = 64
"""Weights with more elements are shown by digest in the text form."""


@dataclass(frozen=True)
class PartSettings:
    """What is told of a model besides the overview."""

    kernels: Annotated[
        bool, typer.Option("--kernels", help="Run the model and tell which kernels it takes.")
    ] = False
    source: Annotated[
        Path | None,
        typer.Option(
            "--source",
            metavar="ORIGINAL",
            help="With --kernels: tell them by the layers of the model that MODEL was compiled from.",
            show_default=False,
        ),
    ] = None
    sites: Annotated[
        bool,
        typer.Option("--sites", help="List where scales of channels can move without changing the function."),
    ] = False
    text: Annotated[bool, typer.Option("--text", help="Print the graph as text instead.")] = False
    passes: Annotated[
        bool,
        typer.Option(
            "--passes", help="Also tell what the exact passes would fold and rewrite, and leave alone."
        ),
    ] = False

    def __post_init__(self) -> None:
        if self.source is not None and not self.kernels:
            raise RecipeError("--source is given without --kernels", hint="give both")


def run(
    model: Model,
    *,
    wanted: PartSettings,
    html: Html = None,
    reading: DataSettings,
    running: RunSettings,
    as_json: Json = False,
) -> None:
    """Show a model's operators, parameters, inputs and encodings.

    With `--kernels` it is run, on random numbers if no data is given: which kernel ran
    each layer, its part of the time, and why a quantized layer stayed in float.
    With `--sites`, each place where scales of channels can move from one operator to
    the next, and what that costs.
    """
    from onnxq.ir.store import load_model
    from onnxq.ir.text import render

    if html is not None:
        refuse_overwriting(html, PAGE, inputs=[model])
    module = load_model(model)
    if wanted.text and not as_json:
        show(render(module, elide_above=ELIDE_ABOVE))
        return
    found = _found(model, module, wanted)
    if wanted.kernels:
        found = replace(found, kernels=_kernels(model, wanted.source, reading, running))
    if html is not None:
        _write(html, module, found)
    if as_json:
        text = {"text": render(module, elide_above=ELIDE_ABOVE)} if wanted.text else {}
        show_json("inspect", {**found.to_dict(), **text})
    else:
        _present(found)


def _found(model: Path, module: GraphModule, wanted: PartSettings) -> Inspection:
    from onnxq.inspection import Inspection
    from onnxq.search.prospects import fold_sites, prospects

    return replace(
        Inspection.of(model, module),
        passes=prospects(model) if wanted.passes else None,
        sites=tuple(fold_sites(model)) if wanted.sites else None,
    )


def _kernels(model: Path, source: Path | None, reading: DataSettings, running: RunSettings) -> KernelReport:
    """Run the model, on random numbers where there is no data."""
    from onnxq.manifest import session_options_beside
    from onnxq.runtime.kernels import kernel_report

    dataset = reading.open(model) or reading.random(model, {})
    run = running.run().with_defaults(session_options_beside(model))
    return kernel_report(model, next(dataset.batches()).feeds, run, source=source)


def _write(path: Path, module: GraphModule, found: Inspection) -> None:
    from onnxq.diff.flat import Flat
    from onnxq.diff.picture import picture_of_model
    from onnxq.report.charts import kernels_chart
    from onnxq.report.page.write import write_page
    from onnxq.report.tables import file_size
    from onnxq.report.tables_of_model import inspection_tables

    name, kernels = found.model.name, found.kernels
    facts = [
        ("size", file_size(found.size_bytes)),
        ("parameters", f"{found.overview.parameters:,}"),
        ("nodes", str(sum(found.overview.operators.values()))),
    ]
    write_page(
        path,
        name,
        kind="inspect",
        facts=facts,
        picture=picture_of_model(Flat.of(module.model), name, kernels),
        tables=inspection_tables(found),
        charts=[kernels_chart(kernels)] if kernels else [],
    )
    remark(f"wrote {path}")


def _present(found: Inspection) -> None:
    from onnxq.report.tables import layers_summary
    from onnxq.report.tables_of_model import inspection_tables
    from onnxq.report.text import draw

    show(*map(draw, inspection_tables(found, limit=24)))
    if found.kernels:
        show(layers_summary(found.kernels.provenance))
        for warning in found.kernels.provenance.warnings:
            remark(warning, "warning")
