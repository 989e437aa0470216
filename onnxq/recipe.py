"""Recipes: which passes turn a model into which artifact, as TOML that people read and edit."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from onnxq.errors import RecipeError, did_you_mean
from onnxq.fragments import FILE, expand
from onnxq.passmanager.precision import Precision
from onnxq.processor import PROCESSORS, here
from onnxq.reading import UnreadableError, parse_json, untrusted
from onnxq.runtime.gates import Gates
from onnxq.target import TARGETS, Target, find_target

FRAGMENTS = "fragments"
"""The key of a recipe under which its own fragments stand."""
CPU_ANY = "cpu-any"
"""What a command calls the target ``cpu`` where nobody knows on which processor the model shall run."""

_SWITCH, _OPTIONS = "switch", "options"


def _kind(choice: object) -> str:
    return _OPTIONS if isinstance(choice, Mapping) else _SWITCH


Choice = Annotated[
    Annotated[tuple[Literal["on", "off"], ...], Tag(_SWITCH)]
    | Annotated[dict[str, tuple[str, ...]], Tag(_OPTIONS)],
    Discriminator(_kind),
]
"""What is tried of a pass: it on or off, or values of its options."""


def _known_target(name: str) -> str:
    if name not in TARGETS:
        raise ValueError(f"unknown target {name!r}; choose from {', '.join(TARGETS)}")
    return name


def _known_processor(name: str | None) -> str | None:
    if name is not None and name not in PROCESSORS:
        raise ValueError(f"unknown processor {name!r}; choose from {', '.join(PROCESSORS)}")
    return name


class _Section(BaseModel):
    """A part of a recipe: it cannot be changed, and knows all of its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Calibration(_Section):
    """How the ranges of the activations are measured.

    Args:
        samples: At most so many samples are measured, from the beginning of the data.

    """

    samples: int = Field(default=128, ge=1, le=sys.maxsize)


Section = TypeVar("Section", bound=BaseModel)


class _PrecisionFile(_Section):
    """What is assigned, in a file of its own."""

    precision: Precision


class Recipe(_Section):
    """How to compile a model.

    Args:
        name: What listings and manifests call it.
        pipeline: The passes as text, over as many lines as you like. Where a recipe is made, names of
            fragments may stand in it, ``fragments`` define more of them, and passes take their places.
        summary: One line for listings.
        target: A key of ``onnxq.target.TARGETS``.
        processor: A key of ``onnxq.processor.PROCESSORS``: what the model is compiled for. None is the one
            at hand; a manifest names it, so that the recipe in it gives the same model everywhere.
        needs_data: Whether a pass reads ranges that only data can give.
        choices: Of passes, by name, either options and the values that are tried besides the pipeline's own,
            as text, or ``on`` or ``off``, where the pass itself is tried or left out.
        precision: What is assigned to layers and values by name, whatever the passes do to the others.
        calibration: How ranges are measured.
        gates: What the result must reach.

    """

    name: str
    pipeline: str
    summary: str = ""
    target: Annotated[str, AfterValidator(_known_target)] = "cpu"
    processor: Annotated[str | None, AfterValidator(_known_processor)] = None
    needs_data: StrictBool = False
    choices: dict[str, Choice] = {}
    precision: Precision = Precision()
    calibration: Calibration = Calibration()
    gates: Gates = Gates()

    @model_validator(mode="before")
    @classmethod
    def _expanded(cls, data: Any) -> Any:
        """Put passes in the place of fragments: a recipe means the same wherever it is read again."""
        if not (isinstance(data, dict) and isinstance(data.get("pipeline"), str)):
            return data
        own = data.get(FRAGMENTS, {})
        if not (isinstance(own, dict) and all(isinstance(passes, str) for passes in own.values())):
            raise RecipeError(f"{FRAGMENTS}: must be a table of names and passes, as text")
        rest = {key: value for key, value in data.items() if key != FRAGMENTS}
        return {**rest, "pipeline": expand(data["pipeline"], own)}

    @property
    def runs_on(self) -> Target:
        """The target, with the processor that is compiled for."""
        return find_target(self.target, self.processor)

    def settled(self) -> Recipe:
        """Return the recipe with the processor at hand in it, where it names none and one matters."""
        if self.processor or self.runs_on.provider != "cpu":
            return self
        return self.model_copy(update={"processor": here().name})

    def to_toml(self) -> str:
        """Return the recipe as TOML that ``parse_recipe`` reads back."""
        sections = {"pipeline", "choices", "precision", "calibration", "gates"}
        plain = self.model_dump(mode="json", exclude=sections, exclude_none=True)
        lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in plain.items()]
        lines += ['pipeline = """', self.pipeline.strip().replace("\\", "\\\\"), '"""']
        if self.choices:
            tried = self.tried().items()
            lines += ["", "[choices]", *(f"{key} = {json.dumps(list(values))}" for key, values in tried)]
        lines += ["", *precision_lines(self.precision)] if self.assigns else []
        for section, values in (
            ("calibration", self.calibration.model_dump()),
            ("gates", asdict(self.gates)),
        ):
            given = [f"{key} = {value}" for key, value in values.items() if value is not None]
            lines += ["", f"[{section}]", *given] if given else []
        return "\n".join(lines) + "\n"

    @property
    def assigns(self) -> bool:
        """Whether it assigns precision to anything by name."""
        return bool(self.precision.layers or self.precision.values)

    def with_precision(self, more: Precision) -> Recipe:
        """Return the recipe with ``more`` assigned, which counts before what it assigns itself."""
        return self.model_copy(update={"precision": self.precision.with_more(more)})

    def with_options(self, settings: Sequence[str]) -> Recipe:
        """Return the recipe with its passes set, each given as ``pass.option=value`` or ``pass=off``.

        What is set is no longer a choice, and a pass with an option that is set is on.

        Raises:
            PipelineError: The pipeline does not parse, or has no such pass or option.

        """
        from onnxq.passmanager.pipeline import format_pipeline, override, parse_pipeline

        if not settings:
            return self
        passes = parse_pipeline(self.pipeline)
        for setting in settings:
            passes = override(passes, setting)
        return self.model_copy(
            update={"pipeline": format_pipeline(passes), "choices": self._choices_without(settings)}
        )

    def decided(self) -> Recipe:
        """Return the recipe as its pipeline stands, with nothing left to choose."""
        return self.model_copy(update={"choices": {}})

    def tried(self) -> dict[str, tuple[str, ...]]:
        """Return the values that are tried, by what is set to them: ``pass.option``, or ``pass``."""
        found: dict[str, tuple[str, ...]] = {}
        for pass_, choice in self.choices.items():
            if isinstance(choice, dict):
                found |= {f"{pass_}.{option}": values for option, values in choice.items()}
            else:
                found[pass_] = choice
        return found

    def _choices_without(self, settings: Sequence[str]) -> dict[str, Choice]:
        """Return what ``settings`` leave open: a pass that they name is on or off, of one off nothing."""
        given = [_key_and_value(setting) for setting in settings]
        touched = {key.partition(".")[0] for key, _ in given}
        off, keys = {key for key, value in given if value == "off"}, {key for key, _ in given}
        left: dict[str, Choice] = {}
        for pass_, choice in self.choices.items():
            if isinstance(choice, dict):
                options = {key: values for key, values in choice.items() if f"{pass_}.{key}" not in keys}
                left |= {pass_: options} if options and pass_ not in off else {}
            elif pass_ not in touched:
                left[pass_] = choice
        return left


def _key_and_value(setting: str) -> tuple[str, str]:
    key, _, value = setting.partition("=")
    return key.strip(), value.strip()


def precision_lines(precision: Precision) -> Iterator[str]:
    """Yield what is assigned as lines of TOML, as a recipe has them."""
    for kind, entries in asdict(precision).items():
        if entries:
            yield f"[precision.{kind}]"
            yield from (
                f"{json.dumps(name, ensure_ascii=False)} = {json.dumps(word)}"
                for name, word in entries.items()
            )


def load_precision(path: Path) -> Precision:
    """Return what a TOML file assigns, in its tables ``[precision.layers]`` and ``[precision.values]``.

    Raises:
        RecipeError: There is no such file, or something in it is wrong.

    """
    return _checked(_parsed(_read(path), str(path)), str(path), _PrecisionFile).precision


def default_recipe(target: str, *, has_data: bool) -> Recipe:
    """Return the shipped recipe for a target, with data or without; it may still need data.

    Raises:
        RecipeError: There is no such target.

    """
    names = {
        "cpu": ("cpu-dynamic", "cpu"),
        CPU_ANY: ("cpu-dynamic", "cpu"),
        "cpu-size": ("cpu-size", "cpu-size"),
        "portable": ("weight-only", "portable"),
        "cuda": ("cuda", "cuda-measured"),
        "tensorrt": ("tensorrt", "tensorrt"),
    }
    if target not in names:
        raise RecipeError(f"unknown target {target!r}", hint=did_you_mean(target, names))
    return aimed_at(load_recipe(names[target][has_data]), target)


def aimed_at(recipe: Recipe, target: str) -> Recipe:
    """Return the recipe for another target; ``cpu-any`` is the CPU, exact on every kind of processor.

    Raises:
        RecipeError: There is no such target.

    """
    if target == CPU_ANY:
        return recipe.model_copy(update={"target": "cpu", "processor": "any"})
    return recipe.model_copy(update={"target": find_target(target).name})


def load_recipe(source: str | Path) -> Recipe:
    """Return a recipe.

    Args:
        source: The name of a shipped recipe, a ``.toml`` file, or the ``.json`` manifest of a
            compiled model, whose recipe is taken.

    Raises:
        RecipeError: There is no such recipe, or something in it is wrong.

    """
    return _checked(*_as_written(source), Recipe)


def pipeline_as_written(source: str | Path) -> str:
    """Return the pipeline of a recipe with the names of fragments that stand in it.

    Args:
        source: As for ``load_recipe``.

    Raises:
        RecipeError: There is no such recipe, or something in it is wrong.

    """
    content, where = _as_written(source)
    _checked(content, where, Recipe)
    return str(content["pipeline"])


def _as_written(source: str | Path) -> tuple[dict[str, Any], str]:
    """Return the content of a recipe, and what errors call it."""
    path = Path(source)
    if path.suffix == ".json":
        return _manifest(path)["recipe"], f"{path}: recipe"
    if path.suffix == ".toml":
        return _parsed(_read(path), str(path)), str(path)
    shipped = {file.stem: file for file in _shipped_files()}
    if str(source) not in shipped:
        hint = did_you_mean(str(source), shipped)
        raise RecipeError(f"unknown recipe {str(source)!r}", hint=f"{hint or 'see: onnxq recipes'}")
    where = f"recipe {source}"
    return _parsed(shipped[str(source)].read_text(encoding="utf-8"), where), where


def load_recipe_table(source: str | Path) -> str | None:
    """Return, as JSON text, the calibration table in a manifest; None for any other recipe.

    Raises:
        RecipeError: The manifest cannot be read.

    """
    path = Path(source)
    table = _manifest(path).get("table") if path.suffix == ".json" else None
    return None if table is None else json.dumps(table)


def shipped_recipes() -> list[Recipe]:
    """Return the recipes that come with onnxq, by name."""
    return [load_recipe(file.stem) for file in _shipped_files()]


def parse_recipe(text: str, *, where: str) -> Recipe:
    """Return the recipe that ``text``, as TOML, describes.

    Raises:
        RecipeError: It is not TOML, or a key or value is wrong; ``where`` names the source.

    """
    return _checked(_parsed(text, where), where, Recipe)


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        with untrusted():
            return tomllib.loads(text)
    except UnreadableError as error:
        raise RecipeError(f"not TOML: {error}", where=where) from error


def _shipped_files() -> list[Path]:
    folder = Path(str(files("onnxq.recipes")))
    recipes = (file for file in folder.glob("*.toml") if file.name != FILE)
    return sorted(recipes, key=lambda file: file.stem)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise RecipeError("there is no such file", where=str(path)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot be read: {error}", where=str(path)) from error


def _manifest(path: Path) -> dict[str, Any]:
    """Return the content of a manifest, which holds a recipe."""
    hint = "give a manifest that onnxq compile wrote, or a .toml file"
    try:
        manifest = parse_json(_read(path))
    except UnreadableError as error:
        raise RecipeError(f"not JSON: {error}", where=str(path), hint=hint) from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("recipe"), dict):
        raise RecipeError("this JSON has no recipe in it", where=str(path), hint=hint)
    return manifest


def _checked(data: dict[str, Any], where: str, kind: type[Section]) -> Section:
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        lines, hints = zip(*map(_explained, error.errors()), strict=True)
        hint = next((hint for hint in hints if hint), None)
        raise RecipeError("; ".join(lines), where=where, hint=hint) from error
    except RecipeError as error:
        raise RecipeError(str(error), where=where, hint=error.hint) from error


def _explained(fault: ErrorDetails) -> tuple[str, str | None]:
    """Return what is wrong with one key, and a suggestion if there is one."""
    key = ".".join(str(part) for part in fault["loc"] if part not in (_SWITCH, _OPTIONS))
    if fault["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown key {key!r}", did_you_mean(str(fault["loc"][-1]), _keys(fault["loc"][:-1]))
    if fault["type"] == "missing":
        return f"the key {key!r} is missing", None
    reason = fault["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return f"{key}: {reason}, found {fault['input']!r}", None


def _keys(section: tuple[int | str, ...]) -> list[str]:
    """Return the keys that a section of a recipe may have."""
    parts: dict[tuple[int | str, ...], type[Any]] = {("gates",): Gates, ("precision",): Precision}
    if section in parts:
        return [field.name for field in fields(parts[section])]
    return list(Calibration.model_fields) if section else [*Recipe.model_fields, FRAGMENTS]
