"""onnxq recipes: what ships, and what is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

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
    from onnxq.fragments import shipped_fragments
    from onnxq.recipe import load_recipe, shipped_recipes

    chosen = {name: load_recipe(name)} if name else {recipe.name: recipe for recipe in shipped_recipes()}
    if as_json:
        listed = [_plain(source, recipe) for source, recipe in chosen.items()]
        show_json("recipes", {"recipes": listed, "fragments": dict(shipped_fragments())})
    elif name:
        show(chosen[name].to_toml() + _written(name, chosen[name]))
    else:
        _show_all(list(chosen.values()))


def _plain(source: str, recipe: Recipe) -> dict[str, Any]:
    from onnxq.recipe import pipeline_as_written

    return {**recipe.model_dump(mode="json"), "as_written": pipeline_as_written(source)}


def _written(source: str, recipe: Recipe) -> str:
    """Return, as comments, the pipeline as it is written with fragments; nothing where there are none."""
    from onnxq.recipe import pipeline_as_written

    written = pipeline_as_written(source)
    if written == recipe.pipeline:
        return ""
    lines = ["the same pipeline as it is written, with fragments:", "", *written.strip().splitlines()]
    return "\n" + "".join(f"# {line}".rstrip() + "\n" for line in lines)


def _show_all(recipes: list[Recipe]) -> None:
    from onnxq.fragments import shipped_fragments
    from onnxq.report.tables import Table
    from onnxq.report.text import draw

    rows = tuple(
        (recipe.name, recipe.target, "yes" if recipe.needs_data else "no", recipe.summary)
        for recipe in recipes
    )
    show(draw(Table("Recipes", ("name", "target", "data", "what it does"), rows, text_columns=4)))
    fragments = tuple((f"@{name}", " ".join(passes.split())) for name, passes in shipped_fragments().items())
    show(draw(Table("Fragments", ("name", "what it stands for in a pipeline"), fragments, text_columns=2)))
    show("onnxq recipes NAME prints one, to start your own from")
