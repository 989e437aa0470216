"""From options to a recipe and a calibration table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from onnxq.errors import DataError, RecipeError

if TYPE_CHECKING:
    from onnxq.calibration.table import CalibrationTable
    from onnxq.recipe import Recipe


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


def choose_recipe(
    name: str | None, pipeline: str | None, target: str | None, settings: Sequence[str], *, has_data: bool
) -> Recipe:
    """Return the recipe that the options ask for.

    Raises:
        RecipeError: Both a recipe and a pipeline are given, or one of them is wrong.
        DataError: The recipe needs data and there is none.

    """
    from onnxq.recipe import Recipe, default_recipe, load_recipe
    from onnxq.target import find_target

    if name and pipeline is not None:
        raise RecipeError("both --recipe and --pipeline are given", hint="give one of them")
    if pipeline is not None:
        recipe = Recipe(name="custom", summary="given as --pipeline", pipeline=pipeline)
    else:
        recipe = load_recipe(name) if name else default_recipe(target or "cpu", has_data=has_data)
    if recipe.needs_data and not has_data:
        raise DataError(
            "it measures activations, and there is no data",
            where=f"recipe {recipe.name!r}",
            hint="give --data, or a recipe that needs none, such as cpu-dynamic",
        )
    if target:
        recipe = recipe.model_copy(update={"target": find_target(target).name})
    return recipe.with_options(settings)
