"""Recipes: what ships works, what is written wrong is told in one line."""

import json
from pathlib import Path

import pytest

from onnxq.errors import PipelineError, RecipeError
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.recipe import (
    Recipe,
    default_recipe,
    load_precision,
    load_recipe,
    load_recipe_table,
    parse_recipe,
    shipped_recipes,
)

HEAD = 'name = "mine"\npipeline = "fold-constants"\n'


@pytest.mark.parametrize("recipe", shipped_recipes(), ids=lambda recipe: recipe.name)
def test_a_shipped_recipe_parses_and_is_called_like_its_file(recipe: Recipe) -> None:
    assert parse_pipeline(recipe.pipeline)
    assert recipe.summary
    assert load_recipe(recipe.name) == recipe


@pytest.mark.parametrize("recipe", shipped_recipes(), ids=lambda recipe: recipe.name)
def test_a_recipe_survives_toml_and_json(recipe: Recipe) -> None:
    assert parse_recipe(recipe.to_toml(), where="") == recipe.model_copy(
        update={"pipeline": recipe.pipeline.strip() + "\n"}
    )
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_gates_and_odd_characters_survive_toml() -> None:
    text = 'name = "a \\"b\\" ü"\npipeline = \'p{x="\\\\d"}\'\n[gates]\nmin_cosine = 0.99\nmax_drop = 0.5\n'
    recipe = parse_recipe(text, where="")
    again = parse_recipe(recipe.to_toml(), where="")
    assert (again.name, again.gates, again.pipeline.strip()) == (recipe.name, recipe.gates, recipe.pipeline)
    assert recipe.gates.max_drop == 0.5


@pytest.mark.parametrize("target", ["cpu", "portable"])
def test_the_default_recipe_fits_target_and_data(target: str) -> None:
    with_data, without = (default_recipe(target, has_data=has) for has in (True, False))
    assert (with_data.target, with_data.needs_data) == (target, True)
    assert (without.target, without.needs_data) == (target, False)


@pytest.mark.parametrize("has_data", [True, False])
def test_a_recipe_for_any_processor_is_that_of_the_cpu_and_saturates_nowhere(has_data: bool) -> None:
    recipe = default_recipe("cpu-any", has_data=has_data)
    assert recipe.pipeline == default_recipe("cpu", has_data=has_data).pipeline
    assert (recipe.target, recipe.processor, recipe.settled().processor) == ("cpu", "any", "any")
    assert recipe.runs_on.processor.saturates
    with pytest.raises(RecipeError, match="unknown target 'cpu-all'") as caught:
        default_recipe("cpu-all", has_data=has_data)
    assert caught.value.hint == "did you mean 'cpu-any'?"


def test_a_gpu_s_recipes_measure_where_there_is_data() -> None:
    assert [default_recipe("cuda", has_data=has).name for has in (False, True)] == ["cuda", "cuda-measured"]


@pytest.mark.parametrize("has_data", [True, False])
def test_tensorrt_gets_its_own_recipe_which_asks_for_data(has_data: bool) -> None:
    recipe = default_recipe("tensorrt", has_data=has_data)
    assert (recipe.name, recipe.target, recipe.needs_data) == ("tensorrt", "tensorrt", True)


@pytest.mark.parametrize("has_data", [True, False])
def test_the_smallest_file_needs_no_data(has_data: bool) -> None:
    recipe = default_recipe("cpu-size", has_data=has_data)
    assert (recipe.name, recipe.target, recipe.needs_data) == ("cpu-size", "cpu-size", False)


def test_an_option_is_set_in_the_pipeline_and_the_rest_kept() -> None:
    recipe = load_recipe("cpu")
    changed = recipe.with_options(["convert-opset.minimum=21", "encode-activations.scope=all-tensors"])
    assert "convert-opset{minimum=21}" in changed.pipeline
    assert "encode-activations{scope=all-tensors" in changed.pipeline
    assert len(parse_pipeline(changed.pipeline)) == len(parse_pipeline(recipe.pipeline))
    assert recipe.with_options([]) is recipe


def test_an_option_of_a_pass_that_is_not_there_is_refused() -> None:
    with pytest.raises(PipelineError, match="the pipeline has no pass 'encode-activations'"):
        load_recipe("fp32").with_options(["encode-activations.scope=gemm-io"])


def test_a_recipe_says_which_passes_are_tried_on_and_which_off() -> None:
    text = HEAD + '[choices]\nsmooth = ["on"]\nfuse-gelu = ["off"]\nround-weights.layers = ["a*", "*"]\n'
    recipe = parse_recipe(text, where="")
    tried = {"smooth": ("on",), "fuse-gelu": ("off",), "round-weights.layers": ("a*", "*")}
    assert recipe.tried() == tried
    assert 'smooth = ["on"]' in recipe.to_toml()
    assert parse_recipe(recipe.to_toml(), where="").choices == recipe.choices
    assert Recipe.model_validate_json(recipe.model_dump_json()).tried() == tried


@pytest.mark.parametrize(
    ("setting", "left"),
    [
        ("round-weights=off", {"encode-activations.method"}),
        ("round-weights.layers=a*", {"encode-activations.method"}),
        ("encode-activations.method=mse", {"round-weights"}),
        ("encode-activations = off", {"round-weights"}),
        ("encode-activations=on", {"round-weights", "encode-activations.method"}),
    ],
)
def test_what_is_set_is_no_choice_any_more(setting: str, left: set[str]) -> None:
    text = HEAD.replace("fold-constants", "encode-weights, round-weights{off}, encode-activations")
    text += '[choices]\nround-weights = ["on"]\nencode-activations.method = ["mse"]\n'
    assert parse_recipe(text, where="").with_options([setting]).tried().keys() == left


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[choices]\nsmooth = ['of']", "choices.smooth.0: must be 'on' or 'off', found 'of'", None),
        ("[choices]\nsmooth = 'on'", "choices.smooth: must be a valid tuple, found 'on'", None),
        ("[choices]\na.b = 'on'", "choices.a.b: must be a valid tuple, found 'on'", None),
        ("[calibration]\nsampels = 3", "unknown key 'calibration.sampels'", "did you mean 'samples'?"),
        ("[gates]\nmin_cosin = 1.0", "unknown key 'gates.min_cosin'", "did you mean 'min_cosine'?"),
        ("sumary = 'x'", "unknown key 'sumary'", "did you mean 'summary'?"),
        ("[gates]\nmin_cosine = 2.0", "gate min-cosine: 2.0 is not possible", "from -1.0 to 1.0"),
        (
            "target = 'cup'",
            "target: unknown target 'cup'; choose from cpu, cpu-size, portable, cuda, tensorrt, found 'cup'",
            None,
        ),
        ("needs_data = 'yes'", "needs_data: must be a valid boolean, found 'yes'", None),
        (
            "[calibration]\nsamples = 0",
            "calibration.samples: must be greater than or equal to 1, found 0",
            None,
        ),
        ("summary = ", "not TOML: ", None),
    ],
)
def test_a_wrong_recipe_is_told_in_one_line(text: str, message: str, hint: str | None) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(HEAD + text, where="mine.toml")
    assert str(caught.value).startswith(f"mine.toml: {message}")
    assert "\n" not in str(caught.value)
    assert caught.value.hint == hint


def test_several_faults_are_all_told() -> None:
    with pytest.raises(RecipeError, match=r"must be a valid string, found 3; the key 'pipeline' is missing"):
        parse_recipe("name = 3", where="mine.toml")


def test_an_unknown_recipe_gets_a_suggestion() -> None:
    with pytest.raises(RecipeError, match="unknown recipe 'cpu-dynamc'") as caught:
        load_recipe("cpu-dynamc")
    assert caught.value.hint == "did you mean 'cpu-dynamic'?"


def test_a_file_that_is_missing_or_no_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"mine\.toml: there is no such file"):
        load_recipe(tmp_path / "mine.toml")
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match=r"cannot be read: .*codec"):
        load_recipe(tmp_path / "mine.toml")


def test_a_manifest_gives_its_recipe_and_its_table(tmp_path: Path) -> None:
    recipe = load_recipe("cpu")
    path = tmp_path / "m.manifest.json"
    path.write_text(json.dumps({"recipe": recipe.model_dump(mode="json"), "table": {"schema": 1}}))
    assert load_recipe(path) == recipe
    assert load_recipe_table(path) == '{"schema": 1}'
    assert load_recipe_table("cpu") is None


@pytest.mark.parametrize(("text", "message"), [("{", "not JSON"), ("[1]", "has no recipe in it")])
def test_json_that_is_no_manifest_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "m.json"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(path)
    assert caught.value.hint == "give a manifest that onnxq compile wrote, or a .toml file"


def test_the_recipe_in_the_documentation_is_right() -> None:
    text = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
    recipe = parse_recipe(text.partition("```toml\n")[2].partition("```")[0], where="docs/recipes.md")
    assert parse_pipeline(recipe.pipeline)
    for name in (*(recipe.name for recipe in shipped_recipes()), *Recipe.model_fields, "min_sqnr_db"):
        assert f"`{name}`" in text or f"`{name}." in text or f".{name}`" in text, name


PRECISION = """
[precision.layers]
"encoder.*" = "float"
"a \\"b\\"" = "int8"
[precision.values]
"/pool/*" = "uint16"
"""


def test_what_is_assigned_by_name_survives_toml_and_json_in_its_order() -> None:
    recipe = parse_recipe(HEAD + PRECISION, where="")
    assert list(recipe.precision.layers.items()) == [("encoder.*", "float"), ('a "b"', "int8")]
    assert recipe.precision.values == {"/pool/*": "uint16"}
    assert parse_recipe(recipe.to_toml(), where="").precision == recipe.precision
    again = Recipe.model_validate_json(recipe.model_dump_json())
    assert list(again.precision.layers) == list(recipe.precision.layers)


def test_a_file_of_its_own_may_hold_what_is_assigned(tmp_path: Path) -> None:
    path = tmp_path / "keep.toml"
    path.write_text(PRECISION)
    assert load_precision(path) == parse_recipe(HEAD + PRECISION, where="").precision
    path.write_text(HEAD + PRECISION)
    with pytest.raises(RecipeError, match="unknown key 'name'"):
        load_precision(path)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ('[precision]\n"a" = "float"', "unknown key 'precision.a'", "choose from: layers, values"),
        ("[precision]\nlayers = 3", "precision.layers: must be a valid dictionary, found 3", None),
        ("[precision.layers]\na = 8", "precision.layers.a: must be a valid string, found 8", None),
    ],
)
def test_a_wrong_table_of_precisions_is_told(text: str, message: str, hint: str | None) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(HEAD + text, where="mine.toml")
    assert str(caught.value) == f"mine.toml: {message}"
    assert caught.value.hint == hint
