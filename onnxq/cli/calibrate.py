"""onnxq calibrate: measure once, compile often."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxq.cli.choose import RecipeSettings
from onnxq.cli.console import progress, show, show_json
from onnxq.cli.options import Json, Model, NeededDataSettings
from onnxq.overwriting import TABLE, refuse_overwriting

Output = Annotated[
    Path,
    typer.Option("-o", "--output", metavar="TABLE", help="Where the table goes.", show_default=False),
]


def run(
    model: Model,
    *,
    reading: NeededDataSettings,
    output: Output,
    wanted: RecipeSettings,
    as_json: Json = False,
) -> None:
    """Measure the ranges of MODEL's activations on data.

    The table is for `onnxq compile --table`, and nothing else is written. It fits
    this model only, and recipes that need no more than this one.
    """
    from onnxq.compile import calibrate_model

    refuse_overwriting(output, TABLE, inputs=[model, Path(reading.data)])
    dataset = reading.open(model)
    with progress() as on_progress:
        table = calibrate_model(model, dataset, recipe=wanted.choose(has_data=True), on_progress=on_progress)
    table.save(output)
    if as_json:
        show_json(
            "calibrate", {"output": str(output), "samples": table.samples, "values": sorted(table.facts)}
        )
        return
    show(f"measured {len(table.facts)} values on {table.samples} samples", f"wrote {output}")
