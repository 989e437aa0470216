"""onnxq sensitivity: which tensors and layers cost accuracy when they are quantized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from onnxq.cli.choose import RecipeSettings
from onnxq.cli.console import progress, remark, show, show_json
from onnxq.cli.options import Json, Model, NeededDataSettings, Processes, Threads

if TYPE_CHECKING:
    from onnxq.search.sensitivity import SensitivityReport

Top = Annotated[int, typer.Option("--top", min=1, metavar="N", help="Show so many tensors and layers.")]

Keep = Annotated[
    int | None,
    typer.Option(
        "--keep",
        min=1,
        metavar="N",
        help="Print only TOML that keeps so many layers, the worst, in float: for --precision or a recipe.",
    ),
]


@dataclass(frozen=True)
class WorkSettings:
    """How much is compared, and how."""

    samples: Annotated[
        int, typer.Option("--samples", min=1, metavar="N", help="Compare the outputs on so many samples.")
    ] = 16
    threads: Threads = None
    processes: Processes = 1


def run(
    model: Model,
    *,
    reading: NeededDataSettings,
    work: WorkSettings,
    top: Top = 15,
    keep: Keep = None,
    wanted: RecipeSettings,
    as_json: Json = False,
) -> None:
    """Rank MODEL's tensors and layers by what quantizing them costs.

    Each is quantized alone, and left alone while all others are quantized; the numbers
    are the SQNR of the output that errs most, against MODEL itself. Encodings are
    those of the recipe as it stands: its choices stay undecided, and what they would
    bring is not in the numbers. Give the manifest of a compilation for what was decided.
    """
    from onnxq.recipe import precision_lines
    from onnxq.search.sensitivity import measure_sensitivity

    dataset = reading.open(model)
    with progress() as on_progress:
        found = measure_sensitivity(
            model,
            wanted.choose(has_data=True),
            dataset,
            samples=work.samples,
            threads=work.threads,
            processes=work.processes,
            on_progress=on_progress,
        )
    for warning in found.warnings:
        remark(warning, "warning")
    if as_json:
        show_json("sensitivity", found.to_dict())
    elif keep is not None:
        show(*precision_lines(found.worst(keep)))
    else:
        _present(found, top)


def _present(found: SensitivityReport, top: int) -> None:
    from onnxq.report.sensitivity import layers_table, overall_table, tensors_table
    from onnxq.report.text import draw

    for table in (overall_table(found), tensors_table(found, top), layers_table(found, top)):
        show(draw(table))
    show(f"compared on {found.samples} samples")
