"""onnxq inspect: what is in a model, and which kernels it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxq.cli.console import show, show_json
from onnxq.cli.options import DataSettings, Json, Model, Provider, SomeData, Threads, provider_of

if TYPE_CHECKING:
    from onnxq.runtime.kernels import KernelReport

Kernels = Annotated[bool, typer.Option("--kernels", help="Run the model and tell which kernels it takes.")]
AsText = Annotated[bool, typer.Option("--text", help="Print the graph as text instead.")]

ELIDE_ABOVE = 64
"""Weights with more elements are shown by digest in the text form."""


def run(
    model: Model,
    *,
    kernels: Kernels = False,
    text: AsText = False,
    data: SomeData = None,
    provider: Provider = "cpu",
    threads: Threads = 1,
    reading: DataSettings,
    as_json: Json = False,
) -> None:
    """Show a model's operators, parameters, inputs and encodings.

    With `--kernels` it is run, on random numbers if no data is given.
    """
    from onnxq.ir.overview import overview
    from onnxq.ir.store import load_model, model_size
    from onnxq.ir.text import render

    module = load_model(model)
    if text and not as_json:
        show(render(module, elide_above=ELIDE_ABOVE))
        return
    content = {"model": str(model), "size_bytes": model_size(model), **overview(module).to_dict()}
    if text:
        content["text"] = render(module, elide_above=ELIDE_ABOVE)
    if kernels:
        content["kernels"] = _kernels(model, data, provider, threads, reading).to_dict()
    if as_json:
        show_json("inspect", content)
    else:
        _present(content)


def _kernels(
    model: Path, data: str | None, provider: str, threads: int | None, reading: DataSettings
) -> KernelReport:
    from onnxq.runtime.kernels import kernel_report

    dataset = reading.open(data, model) if data else reading.random(model, {})
    batch = next(dataset.batches())
    return kernel_report(model, batch.feeds, provider_of(provider), threads)


def _present(content: dict[str, Any]) -> None:
    from onnxq.report.tables import kernels_table, model_tables
    from onnxq.report.text import draw

    show(*map(draw, model_tables(content)))
    if "kernels" in content:
        show(draw(kernels_table(content["kernels"])))
