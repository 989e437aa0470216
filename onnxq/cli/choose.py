"""From options to a recipe and a calibration table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxq.cli.options import recipe_names
from onnxq.errors import DataError, RecipeError

if TYPE_CHECKING:
    from onnxq.calibration.table import CalibrationTable
    from onnxq.recipe import Recipe


def target_names() -> list[str]:
    """Return what completes ``--target``."""
    from onnxq.recipe import CPU_ANY
    from onnxq.target import TARGETS

    return sorted([*TARGETS, CPU_ANY])


@dataclass(frozen=True)
class RecipeSettings:
    """Which passes run; without any of these, the recipe for the target, with data or without."""

    target: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Where the model shall run: cpu (if not given), cpu-any (exact on every processor), "
            "cpu-size, portable, cuda or tensorrt.",
            autocompletion=target_names,
        ),
    ] = None
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="RECIPE",
            help="A recipe's name (see: onnxq recipes), a .toml file, or the manifest of an earlier run.",
            autocompletion=recipe_names,
        ),
    ] = None
    pipeline: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Passes, instead of a recipe's (see: onnxq passes).")
    ] = None
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SETTING", help="Set pass.option=value, or pass=off; may be repeated."),
    ] = None

    precision: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A TOML file with \\[precision.layers] and \\[precision.values], besides the recipe's own.",
        ),
    ] = None

    @property
    def none_chosen(self) -> bool:
        """Whether the default recipe is taken."""
        return self.recipe is None and self.pipeline is None

    @property
    def is_shipped(self) -> bool:
        """Whether a recipe that comes with onnxq is taken, not a file, a manifest or a pipeline."""
        return self.pipeline is None and (self.recipe is None or not Path(self.recipe).suffix)

    def choose(self, *, has_data: bool) -> Recipe:
        """Return the recipe that the options ask for.

        Raises:
            RecipeError: Both a recipe and a pipeline are given, or one of them is wrong.
            DataError: The recipe needs data and there is none.

        """
        from onnxq.recipe import load_precision

        recipe = self._base(has_data=has_data)
        if recipe.needs_data and not has_data:
            raise DataError(
                "it measures activations, and there is no data",
                where=f"recipe {recipe.name!r}",
                hint="give --data, or a recipe that needs none (see: onnxq recipes)",
            )
        recipe = recipe if self.precision is None else recipe.with_precision(load_precision(self.precision))
        return recipe.with_options(self.settings or ())

    def _base(self, *, has_data: bool) -> Recipe:
        """Return the recipe before its options are set."""
        from onnxq.recipe import Recipe, aimed_at, default_recipe, load_recipe

        if self.recipe and self.pipeline is not None:
            raise RecipeError("both --recipe and --pipeline are given", hint="give one of them")
        if self.pipeline is not None:
            recipe = Recipe(name="custom", summary="given as --pipeline", pipeline=self.pipeline)
        elif self.recipe is None:
            return default_recipe(self.target or "cpu", has_data=has_data)
        else:
            recipe = load_recipe(self.recipe)
        return aimed_at(recipe, self.target) if self.target else recipe


def choose_table(path: Path | None, recipe: str | None) -> CalibrationTable | None:
    """Return the table of this file, or else the one that a manifest given as recipe holds.

    Raises:
        OnnxqError: The file is no table, or no manifest.

    """
    from onnxq.calibration.table import CalibrationTable
    from onnxq.recipe import load_recipe_table

    if path is not None:
        return CalibrationTable.load(path)
    text = load_recipe_table(recipe) if recipe else None
    return None if text is None else CalibrationTable.from_json(text, f"{recipe}: table")
