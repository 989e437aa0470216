"""Fragments: names in a pipeline that stand for passes."""

import tomllib
from pathlib import Path

import pytest

from onnxq.errors import PipelineError, RecipeError
from onnxq.fragments import MOST, expand, shipped_fragments
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.recipe import Recipe, parse_recipe, pipeline_as_written, shipped_recipes

PIPELINES = tomllib.loads(Path(__file__).with_name("shipped_pipelines.toml").read_text(encoding="utf-8"))


def test_the_shipped_pipelines_are_what_they_were_letter_by_letter() -> None:
    assert {recipe.name: recipe.pipeline for recipe in shipped_recipes()} == PIPELINES


def test_every_shipped_fragment_is_used_by_three_recipes_or_fragments() -> None:
    texts = [pipeline_as_written(recipe.name) for recipe in shipped_recipes()]
    texts += shipped_fragments().values()
    for name in shipped_fragments():
        assert sum(f"@{name}" in text for text in texts) >= 3, name
        assert parse_pipeline(expand(f"@{name}"))


def test_a_recipe_brings_fragments_of_its_own_and_what_is_kept_has_none() -> None:
    text = """
    name = "mine"
    pipeline = "@start, encode-weights{exclude=@start}, @realise"
    [fragments]
    start = "@fold,\\n infer-shapes"
    fold = " fold-constants "
    """
    recipe = parse_recipe(text, where="")
    expected = "fold-constants,\n infer-shapes, encode-weights{exclude=@start}, insert-qdq, remove-dead"
    assert recipe.pipeline == expected
    assert parse_recipe(recipe.to_toml(), where="").pipeline.strip() == expected
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert "fragments" not in recipe.model_dump()


def test_a_fragment_of_the_recipe_takes_the_place_of_the_shipped_one() -> None:
    assert expand("@tidy, @realise", {"tidy": "fold-constants"}) == "fold-constants, insert-qdq, remove-dead"


@pytest.mark.parametrize(
    "pipeline",
    [
        "split-linear{exclude=@tidy}",
        'round-weights{layers="}"+@tidy+"\\"@tidy"}',
        "fold-pads@tidy",
        "a, @, b",
    ],
)
def test_only_where_a_pass_may_stand_is_an_at_the_beginning_of_a_fragment(pipeline: str) -> None:
    assert expand(pipeline) == pipeline


def test_an_at_behind_a_pass_is_an_error_of_the_pipeline() -> None:
    with pytest.raises(PipelineError, match="expected a comma or the end, found '@'"):
        parse_pipeline(expand("fold-pads@tidy"))


@pytest.mark.parametrize(
    ("fragments", "message", "hint"),
    [
        ('[fragments]\nb = "@tdiy"', "mine.toml: unknown fragment '@tdiy'", "did you mean 'tidy'?"),
        (
            '[fragments]\na = "@b"\nb = "fold-pads, @c"\nc = "@b"',
            "mine.toml: the fragment '@b' contains itself: @b -> @c -> @b",
            None,
        ),
        ('[fragments]\nb = " "', "mine.toml: the fragment '@b' names no pass", None),
        ("[fragments]\nb = 3", "mine.toml: fragments: must be a table of names and passes, as text", None),
        ("fragments = 3", "mine.toml: fragments: must be a table of names and passes, as text", None),
        ("[fragmnets]\nb = 'x'", "mine.toml: unknown fragment '@b'", None),
    ],
)
def test_a_wrong_fragment_is_told_in_one_line(fragments: str, message: str, hint: str | None) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(f'name = "mine"\npipeline = "fold-pads, @b"\n{fragments}', where="mine.toml")
    assert str(caught.value) == message
    assert hint is None or caught.value.hint == hint


def test_an_unknown_key_that_means_fragments_gets_a_suggestion() -> None:
    with pytest.raises(RecipeError, match="unknown key 'fragmnets'") as caught:
        parse_recipe('name = "mine"\npipeline = "fold-pads"\n[fragmnets]\nb = "x"', where="mine.toml")
    assert caught.value.hint == "did you mean 'fragments'?"


def test_a_short_recipe_cannot_stand_for_a_pipeline_without_end() -> None:
    doubling = {f"f{n}": f"@f{n + 1}, @f{n + 1}" for n in range(40)}
    with pytest.raises(RecipeError, match=f"more than {MOST} fragments"):
        expand("@f0", doubling | {"f40": "fold-pads"})
