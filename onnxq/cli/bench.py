"""onnxq bench: models timed side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxq.cli.console import progress, show, show_json
from onnxq.cli.options import DataSettings, Json, SessionSettings
from onnxq.errors import DataError, RecipeError

if TYPE_CHECKING:
    from onnxq.calibration.data import Dataset
    from onnxq.runtime.bench import LatencyReport, Timing

Models = Annotated[
    list[Path],
    typer.Argument(
        metavar="A B...", help="The models; A is what others are compared with.", show_default=False
    ),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        metavar="SHAPE",
        help="Feed random numbers: input=1x128; once for each input with dynamic axes.",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class TimingSettings:
    """How long to time; see ``onnxq.runtime.bench.Timing``."""

    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="At most so many rounds.")] = 30
    seconds: Annotated[
        float, typer.Option(min=0.0, metavar="S", help="About how long the rounds may take.")
    ] = 20.0
    no_memory: Annotated[bool, typer.Option("--no-memory", help="Do not measure memory.")] = False

    def timing(self) -> Timing:
        """Return the library's form."""
        from onnxq.runtime.bench import Timing

        return Timing(rounds=self.rounds, seconds=self.seconds, memory=not self.no_memory)


def run(
    models: Models,
    *,
    reading: DataSettings,
    shape: Shapes = None,
    running: SessionSettings,
    timed: TimingSettings,
    as_json: Json = False,
) -> None:
    """Time models side by side, and tell which kernels ran.

    Interleaved rounds after a warm-up; medians with their spread. The batch size is 1
    if not given. Padded samples are timed beside full ones where an attention_mask has
    zeros. A model that would run elsewhere than asked for is refused.
    """
    from onnxq.runtime.bench import bench
    from onnxq.runtime.padded import padding_cost

    run, named = running.run(), _named(models)
    entries = {name: running.asked_by(model) for name, model in named.items()}
    single = replace(reading, batch_size=reading.batch_size or 1)
    dataset = _dataset(models[0], shape or (), single)
    feeds = [batch.feeds for batch in islice(dataset.batches(), timed.rounds)]
    with progress() as on_progress:
        report = bench(
            named,
            feeds,
            run,
            timed.timing(),
            entries=entries,
            allow_fallback=running.allow_fallback or (),
            on_progress=on_progress,
        )
    costs = {
        name: padding_cost(model, feeds, run.with_defaults(entries[name])) for name, model in named.items()
    }
    _present(report, {name: cost for name, cost in costs.items() if cost is not None}, as_json=as_json)


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Return the input and the shape that ``input=1x128`` names; ``input=`` is a scalar.

    Raises:
        RecipeError: It is not written like that.

    """
    name, equals, axes = text.rpartition("=")
    parts = axes.split("x") if axes else []
    if not name or not equals or not all(part.isdecimal() and int(part) for part in parts):
        raise RecipeError(f"{text!r} is no shape", where="--shape", hint="write it like input_ids=1x128")
    return name, tuple(map(int, parts))


def _dataset(model: Path, shapes: Sequence[str], reading: DataSettings) -> Dataset:
    if reading.data and shapes:
        raise RecipeError("both --data and --shape are given", hint="give one of them")
    if reading.data:
        return reading.read(reading.data, model)
    if not shapes:
        raise DataError(
            "there is nothing to feed the models",
            hint="give --data DATA, --data random, or --shape INPUT=1x128",
        )
    return reading.random(model, dict(map(parse_shape, shapes)))


def _named(models: Sequence[Path]) -> dict[str, Path]:
    """Name the models by their files, or by their paths where two files are called the same."""
    distinct = len({model.name for model in models}) == len(models)
    return {model.name if distinct else str(model): model for model in models}


def _present(latency: LatencyReport, padding: Mapping[str, float], *, as_json: bool) -> None:
    from onnxq.report.tables import conditions, footprint_table, kernels_table, latency_table, padding_table
    from onnxq.report.text import draw

    if as_json:
        show_json("bench", {**latency.to_dict(), "padding": dict(padding)})
        return
    show(draw(latency_table(latency)), draw(footprint_table(latency)))
    if padding:
        show(draw(padding_table(padding)))
    for model in latency.models:
        show(draw(replace(kernels_table(model.kernels, limit=6), title=f"Kernels of {model.name}")))
    show(conditions(latency))
