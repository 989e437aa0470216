"""onnxq inspect: what is in a model, and which kernels it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxq.cli.console import remark, show, show_json
from onnxq.cli.options import DataSettings, Json, Model, RunSettings
from onnxq.errors import RecipeError
from onnxq.overwriting import PAGE, refuse_overwriting

if TYPE_CHECKING:
    from onnxq.ir.module import GraphModule

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
    content = _content(model, module, wanted)
    if wanted.kernels:
        content["kernels"] = _kernels(model, wanted.source, reading, running)
    if html is not None:
        _write(html, module, content)
    if as_json:
        show_json("inspect", content)
    else:
        _present(content)


def _content(model: Path, module: GraphModule, wanted: PartSettings) -> dict[str, Any]:
    from onnxq.analysis.overview import overview
    from onnxq.diff.flat import Flat
    from onnxq.diff.weights import bits_per_weight, stored_weights
    from onnxq.ir.store import model_size
    from onnxq.ir.text import render
    from onnxq.search.prospects import fold_sites, prospects

    content = {"model": str(model), "size_bytes": model_size(model), **overview(module).to_dict()}
    content["bits_per_weight"] = bits_per_weight(stored_weights(Flat.of(module.model)))
    if wanted.passes:
        content["passes"] = [one.model_dump(mode="json") for one in prospects(model)]
    if wanted.sites:
        content["sites"] = [site.to_dict() for site in fold_sites(model)]
    if wanted.text:
        content["text"] = render(module, elide_above=ELIDE_ABOVE)
    return content


def _kernels(model: Path, source: Path | None, reading: DataSettings, running: RunSettings) -> dict[str, Any]:
    """Run the model, on random numbers where there is no data."""
    from onnxq.manifest import session_options_beside
    from onnxq.runtime.kernels import kernel_report

    dataset = reading.open(model) or reading.random(model, {})
    run = running.run().with_defaults(session_options_beside(model))
    return kernel_report(model, next(dataset.batches()).feeds, run, source=source).to_dict()


def _write(path: Path, module: GraphModule, content: dict[str, Any]) -> None:
    from onnxq.diff.flat import Flat
    from onnxq.diff.picture import picture_of_model
    from onnxq.report.charts import kernels_chart
    from onnxq.report.page.write import write_page
    from onnxq.report.tables import file_size
    from onnxq.report.tables_of_model import inspection_tables

    name, kernels = Path(content["model"]).name, content.get("kernels")
    facts = [("size", file_size(content["size_bytes"])), ("parameters", f"{content['parameters']:,}")]
    write_page(
        path,
        name,
        kind="inspect",
        facts=[*facts, ("nodes", str(sum(content["operators"].values())))],
        picture=picture_of_model(Flat.of(module.model), name, kernels and kernels["nodes"]),
        tables=inspection_tables(content),
        charts=[kernels_chart(kernels)] if kernels else [],
    )
    remark(f"wrote {path}")


def _present(content: dict[str, Any]) -> None:
    from onnxq.report.tables import layers_summary
    from onnxq.report.tables_of_model import inspection_tables
    from onnxq.report.text import draw

    show(*map(draw, inspection_tables(content, limit=24)))
    if "kernels" in content:
        ran = content["kernels"]
        show(layers_summary(ran))
        for warning in ran["warnings"]:
            remark(warning, "warning")
