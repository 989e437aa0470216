"""onnxq recipes: what ships, and what is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from onnxq.cli.console import show, show_json
from onnxq.cli.options import Json, recipe_names

if TYPE_CHECKING:
    from onnxq.recipe import Recipe

Name = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME", help="One recipe: a name, or a file.", autocompletion=recipe_names, show_default=False
    ),
]


def run(name: Name = None, *, as_json: Json = False) -> None:
    """List the shipped recipes, or print one."""
    from onnxq.recipe import load_recipe, shipped_recipes

    chosen = [load_recipe(name)] if name else shipped_recipes()
    if as_json:
        show_json("recipes", {"recipes": [recipe.model_dump(mode="json") for recipe in chosen]})
    elif name:
        show(chosen[0].to_toml())
    else:
        _show_all(chosen)


def _show_all(recipes: list[Recipe]) -> None:
    from onnxq.report.tables import Table
    from onnxq.report.text import draw

    rows = tuple(
        (recipe.name, recipe.target, "yes" if recipe.needs_data else "no", recipe.summary)
        for recipe in recipes
    )
    show(draw(Table("Recipes", ("name", "target", "data", "what it does"), rows, text_columns=4)))
    show("onnxq recipes NAME prints one, to start your own from")
