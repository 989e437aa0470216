"""Options that several commands share, each written once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxq.cli.console import remark
from onnxq.errors import RecipeError, did_you_mean

if TYPE_CHECKING:
    from onnxq.calibration.data import DataOptions, Dataset
    from onnxq.engine.source import Source
    from onnxq.recipe import Recipe
    from onnxq.runtime.gates import Gates
    from onnxq.runtime.metrics import Metric
    from onnxq.runtime.run import Provider as ProviderName
    from onnxq.runtime.run import Run

_DATA, _GATES, _RUN = "How the data is read", "What the result must reach", "How it is run"


def recipe_names() -> list[str]:
    """Return what completes ``--recipe``."""
    from onnxq.recipe import shipped_recipes

    return [recipe.name for recipe in shipped_recipes()]


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to standard output.")]
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="An .onnx file.", show_default=False)]
Reference = Annotated[Path, typer.Argument(metavar="A", help="The original .onnx file.", show_default=False)]
Candidate = Annotated[Path, typer.Argument(metavar="B", help="The compiled .onnx file.", show_default=False)]

_DATA_OPTION = typer.Option(
    "--data",
    metavar="DATA",
    help="Data: a file or folder of arrays, texts or images, package.module:function, or the word random.",
    show_default=False,
)

MOST_THREADS = 1024
"""More than any machine has cores; ONNX Runtime would start as many as it is told, and bring it down."""
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        max=MOST_THREADS,
        metavar="N",
        help="Threads within an operator; ONNX Runtime chooses if not given.",
    ),
]
MOST_PROCESSES = 64
"""Each needs memory of its own."""
Processes = Annotated[
    int,
    typer.Option(
        "--processes",
        min=1,
        max=MOST_PROCESSES,
        metavar="N",
        help="Do so many trials at a time; the result is the same. Each takes about as much memory.",
    ),
]
Provider = Annotated[
    str, typer.Option("--provider", help="Where to run: cpu, cuda or tensorrt.", rich_help_panel=_RUN)
]
AllowFallback = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-fallback",
        metavar="NODE|OPERATOR",
        help="Let a node, or an operator, run on another provider than asked for.",
        rich_help_panel=_RUN,
        show_default=False,
    ),
]
MetricName = Annotated[
    str | None,
    typer.Option(
        "--metric",
        metavar="top1|MODULE:NAME",
        help="A task metric, computed for both models from the data's labels.",
        rich_help_panel=_GATES,
        show_default=False,
    ),
]


@dataclass(frozen=True)
class ReadingSettings:
    """How ``--data`` is read; see ``onnxq.calibration.data.DataOptions``."""

    batch_size: Annotated[
        int | None, typer.Option(help="Samples in a batch; 8 if not given.", rich_help_panel=_DATA)
    ] = None
    limit: Annotated[
        int | None, typer.Option(help="Read at most so many samples.", rich_help_panel=_DATA)
    ] = None
    label_column: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Column, or array of an .npz, with the labels.", rich_help_panel=_DATA
        ),
    ] = None
    text_column: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Column with text; twice for pairs.", rich_help_panel=_DATA),
    ] = None
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder with tokenizer.json; else the model's own.", rich_help_panel=_DATA
        ),
    ] = None
    max_length: Annotated[
        int | None, typer.Option(help="Cut texts to so many tokens.", rich_help_panel=_DATA)
    ] = None
    pad_to: Annotated[
        int | None, typer.Option(help="Pad every text to so many tokens.", rich_help_panel=_DATA)
    ] = None
    size: Annotated[
        str | None,
        typer.Option(metavar="H[xW]", help="Resize images to this height and width.", rich_help_panel=_DATA),
    ] = None
    mean: Annotated[
        str | None,
        typer.Option(metavar="R[,G,B]", help="Subtracted from scaled pixels.", rich_help_panel=_DATA),
    ] = None
    std: Annotated[
        str | None,
        typer.Option(metavar="R[,G,B]", help="Divides pixels after --mean.", rich_help_panel=_DATA),
    ] = None
    scale: Annotated[
        float | None, typer.Option(help="Multiplied to integer pixels first.", rich_help_panel=_DATA)
    ] = None
    layout: Annotated[
        str | None, typer.Option(metavar="nchw|nhwc", help="The model's layout.", rich_help_panel=_DATA)
    ] = None
    channel_order: Annotated[
        str, typer.Option(metavar="rgb|bgr", help="The model's order of colours.", rich_help_panel=_DATA)
    ] = "rgb"
    seed: Annotated[
        int, typer.Option(help="For random data, and the order of training.", rich_help_panel=_DATA)
    ] = 0

    def read(self, data: str, model: Path, *, source: Source | None = None, tell: bool = True) -> Dataset:
        """Return ``data`` for ``model``, and say what a user has to know of it, unless that is told later.

        Args:
            data: What was given.
            model: The model's file.
            source: The model, where it is opened already.
            tell: Whether to say so now.

        Raises:
            OnnxqError: The model or the data cannot be read, or an option is wrong.

        """
        from onnxq.calibration.data import input_specs, open_data
        from onnxq.ir.store import load_model

        module = load_model(model) if source is None else source.module
        dataset = open_data(data, input_specs(module.model), self.options(model))
        if dataset.warning and tell:
            remark(dataset.warning, "warning")
        return dataset

    def random(self, model: Path, shapes: Mapping[str, tuple[int, ...]]) -> Dataset:
        """Return random feeds, asked for by their shapes; an input that is not named has the model's.

        Raises:
            OnnxqError: The model cannot be read, or has no input of such a name.

        """
        from onnxq.calibration.data import input_specs, open_data
        from onnxq.ir.store import load_model

        specs = input_specs(load_model(model).model)
        names = {spec.name for spec in specs}
        for name in shapes:
            if name not in names:
                hint = did_you_mean(name, names)
                raise RecipeError(f"the model has no input {name!r}", where="--shape", hint=hint)
        fixed = [replace(spec, shape=shapes.get(spec.name, spec.shape)) for spec in specs]
        return open_data("random", fixed, replace(self.options(model), batch_size=None))

    def options(self, model: Path) -> DataOptions:
        """Return the readers' options for data of ``model``.

        Raises:
            RecipeError: A value is out of its range, or no number where one is wanted.

        """
        from onnxq.calibration.data import DataOptions

        plain = {f.name: getattr(self, f.name) for f in fields(self) if hasattr(DataOptions, f.name)}
        parsed = {
            "text_columns": tuple(self.text_column or ()),
            "mean": _numbers(self.mean, "--mean"),
            "std": _numbers(self.std, "--std"),
            "size": _height_and_width(self.size),
            "model_dir": model.parent,
        }
        return DataOptions(**{**plain, **parsed})


@dataclass(frozen=True, kw_only=True)
class DataSettings(ReadingSettings):
    """Data, where it is given, and how it is read."""

    data: Annotated[str | None, _DATA_OPTION] = None

    def open(self, model: Path, *, source: Source | None = None, tell: bool = True) -> Dataset | None:
        """Return the data for ``model``, as ``read`` does; None if there is none."""
        return None if self.data is None else self.read(self.data, model, source=source, tell=tell)


@dataclass(frozen=True, kw_only=True)
class NeededDataSettings(ReadingSettings):
    """Data, and how it is read."""

    data: Annotated[str, _DATA_OPTION]

    def open(self, model: Path) -> Dataset:
        """Return the data for ``model``, as ``read`` does."""
        return self.read(self.data, model)


def _decibels(text: str) -> float:
    """Return a number of decibels; 0, which asks for nothing, for ``off``."""
    if text == "off":
        return 0.0
    try:
        return float(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is neither a number nor off") from error


@dataclass(frozen=True)
class GateSettings:
    """Gates; one that is given replaces the recipe's. See ``onnxq.runtime.gates.Gates``."""

    min_cosine: Annotated[
        float | None, typer.Option(help="Smallest cosine of any output.", rich_help_panel=_GATES)
    ] = None
    min_sqnr_db: Annotated[
        float | None,
        typer.Option(
            "--min-sqnr",
            "--min-sqnr-db",
            metavar="DB",
            parser=_decibels,
            help="Smallest SQNR of any output, in dB; off asks for nothing.",
            rich_help_panel=_GATES,
        ),
    ] = None
    max_abs: Annotated[
        float | None, typer.Option(help="Largest difference in any output.", rich_help_panel=_GATES)
    ] = None
    min_agreement: Annotated[
        float | None,
        typer.Option(help="Smallest share of equal classes or values, 0 to 1.", rich_help_panel=_GATES),
    ] = None
    max_drop: Annotated[
        float | None, typer.Option(help="Points of the metric that may be lost.", rich_help_panel=_GATES)
    ] = None

    def into(self, recipe: Recipe) -> Recipe:
        """Return the recipe with these gates, so that its manifest holds them too."""
        return recipe.model_copy(update={"gates": self.over(recipe.gates)})

    def require_measurable(self, *, compared: bool, has_metric: bool) -> None:
        """Require that a run measures what these gates ask for; see ``onnxq.runtime.gates``.

        Raises:
            RecipeError: It would not.

        """
        from onnxq.runtime.gates import Gates, require_measurable

        require_measurable(self.over(Gates()), compared=compared, has_metric=has_metric)

    def over(self, base: Gates) -> Gates:
        """Return ``base`` with what was given put in.

        Raises:
            RecipeError: A value cannot be reached by any model.

        """
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(base, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class RunSettings:
    """Where and how models run; see ``onnxq.runtime.run.Run``."""

    provider: Provider = "cpu"
    threads: Threads = 1

    def run(self) -> Run:
        """Return the library's form.

        Raises:
            RecipeError: There is no such provider.

        """
        from onnxq.runtime.run import Run

        return Run(provider_of(self.provider), self.threads)


@dataclass(frozen=True)
class StrictRunSettings(RunSettings):
    """The same for models that are refused where nodes run elsewhere."""

    allow_fallback: AllowFallback = None


@dataclass(frozen=True)
class SessionSettings(StrictRunSettings):
    """The same with how sessions are opened."""

    session_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="A session configuration entry of ONNX Runtime; may be repeated. "
            "What the manifest beside a model names is set anyway.",
            rich_help_panel=_RUN,
            show_default=False,
        ),
    ] = None
    cuda_graph: Annotated[
        bool,
        typer.Option(
            "--cuda-graph",
            help="Record a run as a CUDA graph and replay it; needs --provider cuda and data of one shape.",
            rich_help_panel=_RUN,
        ),
    ] = False

    def run(self) -> Run:
        """Return the library's form, with the entries that were given.

        Raises:
            RecipeError: There is no such provider, or an entry is not written like KEY=VALUE.
            TargetError: CUDA graphs are asked for on another provider.

        """
        entries = dict(map(_entry, self.session_option or ()))
        return replace(super().run(), entries=entries, cuda_graph=self.cuda_graph)

    def asked_by(self, model: Path) -> dict[str, str]:
        """Return the session entries of the manifest beside ``model``, and say so; those given come first.

        Raises:
            RecipeError: One that was given is not written like KEY=VALUE.
            ModelError: The manifest cannot be read.

        """
        from onnxq.manifest import session_options_beside

        given = self.run().entries
        asked = {key: value for key, value in session_options_beside(model).items() if key not in given}
        if asked:
            told = ", ".join(f"{key}={value}" for key, value in asked.items())
            remark(f"{model.name}: as its manifest asks, {told}")
        return asked


def _entry(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key.strip() and equals):
        raise RecipeError(
            f"{text!r} is no entry",
            where="--session-option",
            hint="write it like --session-option ep.cuda.fpa_intb_gemm=1",
        )
    return key.strip(), value.strip()


def provider_of(name: str) -> ProviderName:
    """Return the name of a provider that onnxq knows.

    Raises:
        RecipeError: There is none of this name.

    """
    from onnxq.runtime.run import PROVIDERS, known_provider

    provider = known_provider(name)
    if provider is None:
        hint = did_you_mean(name, PROVIDERS)
        raise RecipeError(f"unknown provider {name!r}", where="--provider", hint=hint)
    return provider


def metric_of(name: str | None) -> Metric | None:
    """Return the metric of this name, if one is given.

    Raises:
        RecipeError: There is no such metric.

    """
    from onnxq.runtime.metrics import load_metric

    return None if name is None else load_metric(name)


def _numbers(text: str | None, option: str) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise RecipeError(
            f"{text!r} is no list of numbers", where=option, hint=f"write it like {option} 0.5,0.5,0.5"
        ) from error


def _height_and_width(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    height, _, width = text.partition("x")
    if not (height.isdecimal() and (width or height).isdecimal()):
        raise RecipeError(f"{text!r} is no size", where="--size", hint="write it like 224 or 224x320")
    return int(height), int(width or height)
