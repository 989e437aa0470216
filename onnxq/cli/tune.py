"""onnxq tune: train an exported model with quantization in the loop."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxq.cli.choose import RecipeSettings
from onnxq.cli.compile import Output, present
from onnxq.cli.console import progress, remark, show, show_json
from onnxq.cli.options import Json, MetricName, Model, NeededDataSettings, ReadingSettings, Threads, metric_of
from onnxq.errors import DataError, RecipeError, did_you_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from onnxq.calibration.data import Dataset
    from onnxq.comparison import CompileOptions
    from onnxq.finetuning import FinetuneOptions
    from onnxq.training.fitting import Check, Plan

METHODS = ("lsq", "qat", "quanttune")
LOSSES = ("cross-entropy", "kl", "mse")
OPTIMIZERS = ("adam", "sgd")
SHAPES = ("constant", "cosine")
BATCH = 32
_HOW, _WHAT = "How it is trained", "What it is trained for"


@dataclass(frozen=True)
class GoalSettings:
    """What is trained for, and judged by."""

    loss: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(LOSSES),
            help="Of the outputs: kl (if no labels are given; classes along the last axis) or mse to MODEL's "
            "own, or cross-entropy to labels.",
            rich_help_panel=_WHAT,
        ),
    ] = None
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="An .npy with the number of each sample's class, where the data itself has none.",
            rich_help_panel=_WHAT,
        ),
    ] = None
    val: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Samples that judge which step was best; else every tenth batch of the data.",
            rich_help_panel=_WHAT,
        ),
    ] = None
    metric: MetricName = None

    def read_labels(self) -> NDArray[Any] | None:
        """Return the labels of a file, if one is given.

        Raises:
            DataError: It is no .npy of one number for each sample.

        """
        import numpy as np

        if self.labels is None:
            return None
        try:
            found = np.load(self.labels, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"it cannot be read: {error}", where=str(self.labels)) from error
        if not isinstance(found, np.ndarray) or found.dtype.kind not in "iu" or found.ndim == 0:
            raise DataError("it holds no whole numbers", where=str(self.labels), hint="write it with np.save")
        return found


@dataclass(frozen=True)
class PlanSettings:
    """How it is trained; see ``onnxq.training.fitting.Plan``."""

    steps: Annotated[int, typer.Option(min=1, help="How many steps.", rich_help_panel=_HOW)] = 1000
    lr: Annotated[float, typer.Option(help="How far a weight moves in a step.", rich_help_panel=_HOW)] = 1e-4
    scale_lr: Annotated[
        float, typer.Option(help="The same of scales, as a part of them.", rich_help_panel=_HOW)
    ] = 1e-3
    optimizer: Annotated[str, typer.Option(metavar="|".join(OPTIMIZERS), rich_help_panel=_HOW)] = "adam"
    schedule: Annotated[
        str, typer.Option(metavar="|".join(SHAPES), help="How rates fall.", rich_help_panel=_HOW)
    ] = "cosine"
    warm_up: Annotated[
        int, typer.Option(min=0, help="In so many steps rates rise.", rich_help_panel=_HOW)
    ] = 0
    weight_decay: Annotated[
        float, typer.Option(help="How much weights shrink, times the rate.", rich_help_panel=_HOW)
    ] = 0.0
    clip: Annotated[
        float | None, typer.Option(help="Longest gradient of all weights together.", rich_help_panel=_HOW)
    ] = None
    check_every: Annotated[
        int, typer.Option(min=1, metavar="N", help="Judge after every N steps.", rich_help_panel=_HOW)
    ] = 100
    patience: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="End after N checks without a better.", rich_help_panel=_HOW),
    ] = None
    dampen: Annotated[
        float,
        typer.Option(
            metavar="L",
            help="Draw weights of up to 4 bits to grid points, in the end L.",
            rich_help_panel=_HOW,
        ),
    ] = 0.0
    freeze: Annotated[
        bool,
        typer.Option("--freeze", help="Freeze weights of up to 4 bits that oscillate.", rich_help_panel=_HOW),
    ] = False
    flip: Annotated[
        bool, typer.Option("--flip", help="Mirror images at random, left to right.", rich_help_panel=_HOW)
    ] = False
    shift: Annotated[
        int,
        typer.Option(min=0, metavar="PIXELS", help="Move images at random.", rich_help_panel=_HOW),
    ] = 0
    penalty: Annotated[
        float, typer.Option(help="How much outliers count, with quanttune.", rich_help_panel=_HOW)
    ] = 1.0
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Save there at each check, and go on from it.", rich_help_panel=_HOW
        ),
    ] = None

    def plan(self, method: str, reading: ReadingSettings) -> Plan:
        """Return the library's form.

        Raises:
            RecipeError: There is no such optimizer or schedule.

        """
        from onnxq.training.fitting import Plan

        return Plan(
            steps=self.steps,
            batch=reading.batch_size or BATCH,
            rate=self.lr,
            scale_rate=self.scale_lr if method == "lsq" else 0.0,
            optimizer=one_of(self.optimizer, OPTIMIZERS, "--optimizer"),
            shape=one_of(self.schedule, SHAPES, "--schedule"),
            warm_up=self.warm_up,
            decay=self.weight_decay,
            clip=self.clip,
            check_every=self.check_every,
            patience=self.patience,
            seed=reading.seed,
            dampen=self.dampen,
            freeze=self.freeze,
            flip=self.flip,
            shift=self.shift,
        )


@dataclass(frozen=True)
class MethodSettings:
    """What is learned, for how many bits."""

    method: Annotated[
        str,
        typer.Option(
            metavar="|".join(METHODS),
            help="lsq learns weights, scales and offsets; qat weights alone, on grids as measured; quanttune "
            "tames outliers of a model that stays in float, to be compiled then.",
        ),
    ] = "lsq"
    bits: Annotated[str, typer.Option(metavar="wNaN", help="Of weights and activations, 2 to 8.")] = "w8a8"
    threads: Threads = None
    force: Annotated[bool, typer.Option("--force", help="Replace a file that onnxq did not write.")] = False


def run(
    model: Model,
    *,
    output: Output,
    reading: NeededDataSettings,
    work: MethodSettings,
    goal: GoalSettings,
    plan: PlanSettings,
    wanted: RecipeSettings,
    as_json: Json = False,
) -> None:
    """Train MODEL with quantization in the loop.

    MODEL is trained as it was exported, in ONNX Runtime: its weights, and the scales of
    what is quantized. What is quantized where is what the recipe decides, with the bits
    asked for. Writes OUT.onnx, OUT.manifest.json and OUT.report.md.
    """
    from onnxq.finetuning import FinetuneOptions, finetune_model
    from onnxq.report.tables_of_training import oscillating_table
    from onnxq.report.text import draw

    labels = goal.read_labels()
    options = FinetuneOptions(
        bits=widths_of(work.bits),
        plan=plan.plan(one_of(work.method, METHODS, "--method"), reading),
        loss=one_of(goal.loss or ("kl" if labels is None else "cross-entropy"), LOSSES, "--loss"),
        recipe=wanted.choose(has_data=True),
        judging=None if goal.val is None else reading.read(goal.val, model),
        labels=labels,
        checkpoint=plan.checkpoint,
        penalty=plan.penalty,
    )
    if work.method == "quanttune":
        _tame(model, output, reading.open(model), options, _around(goal, options, work, wanted), as_json)
        return
    with progress() as on_progress:
        tuned = finetune_model(
            *(model, output, reading.open(model), options),
            around=_around(goal, options, work, wanted),
            on_progress=on_progress,
            on_check=_tell,
        )
    if tuned.oscillating and not as_json:
        show(draw(oscillating_table(tuned.oscillating)))
    present(output, tuned.compiled.manifest, as_json=as_json, passed=True)


def _tame(
    model: Path, output: Path, data: Dataset, options: FinetuneOptions, around: CompileOptions, as_json: bool
) -> None:
    from onnxq.quanttuning import tame_model
    from onnxq.report.tables_of_training import tamed_table
    from onnxq.report.text import draw

    with progress() as on_progress:
        tamed = tame_model(
            model, output, data, options, around=around, on_progress=on_progress, on_check=_tell
        )
    if as_json:
        show_json("tune", {"output": str(output), **tamed.to_dict()})
        return
    show(draw(tamed_table(tamed)), f"wrote {output}: a float model, for onnxq compile")


def _around(
    goal: GoalSettings, options: FinetuneOptions, work: MethodSettings, wanted: RecipeSettings
) -> CompileOptions:
    from onnxq.comparison import CompileOptions

    named = [Path(one) for one in (goal.labels, wanted.recipe) if one is not None]
    return CompileOptions(
        bench=False,
        threads=work.threads,
        validation_data=options.judging,
        metric=metric_of(goal.metric),
        force=work.force,
        also_read=tuple(path for path in named if path.is_file()),
    )


def _tell(check: Check) -> None:
    metric = "" if check.metric is None else f", {check.metric:.2%} of classes right"
    remark(f"step {check.step}: loss {check.loss:.4g}{metric}")


def widths_of(text: str) -> tuple[int, int]:
    """Return the bits of weights and of activations.

    Raises:
        RecipeError: The text is not like w4a8.

    """
    match = re.fullmatch(r"w([2-8])a([2-8])", text)
    if match is None:
        raise RecipeError(f"{text!r} names no bits", where="--bits", hint="write it like w4a8; 2 to 8 each")
    return int(match[1]), int(match[2])


def one_of(name: str, known: tuple[str, ...], option: str) -> Any:
    """Return the name if it is known.

    Raises:
        RecipeError: It is not.

    """
    if name not in known:
        hint = did_you_mean(name, known) or f"choose from {', '.join(known)}"
        raise RecipeError(f"unknown choice {name!r}", where=option, hint=hint)
    return name
