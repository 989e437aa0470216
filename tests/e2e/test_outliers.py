"""Folding outliers away, on whole models: exact, and closer to float once quantized."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxq import load_model, load_recipe
from onnxq.analysis.sites import find_sites
from onnxq.digits import DIGITS_MODEL, load_digits_split
from onnxq.ir.module import GraphModule
from onnxq.passmanager.instruments import VerifyEach
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.rewrite.edit import Editor
from onnxq.rewrite.fold import fold
from onnxq.target import find_target
from onnxq.testing.laws import FeedsData, run_model

Feeds = Mapping[str, NDArray[Any]]
FOLDING = ["shift-and-scale, smooth", "group-embeddings{shift=true}"]
ROUNDING = 1e-4
"""Outputs are of size 1 to 10 and some thousand roundings of 2^-24 away from the input. Only real tokens
count: padded ones lie so far off that ONNX Runtime's own optimisations move them as much."""
SENTENCES = [
    "A man is playing a guitar.",
    "The quick brown fox jumps over the lazy dog, again and again, until the sun sets behind the hills.",
    "It was the best of times, it was the worst of times, it was the age of wisdom.",
    "Why?",
]


def digits_feeds() -> Feeds:
    return {"image": load_digits_split().calibration_images[:16]}


def minilm_feeds(file: Path) -> Feeds:
    if not file.is_file():
        pytest.skip("MiniLM has no tokenizer.json beside it")
    tokenizer = pytest.importorskip("tokenizers").Tokenizer.from_file(str(file))
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(SENTENCES)
    ids = np.array([one.ids for one in encoded], np.int64)
    mask = np.array([one.attention_mask for one in encoded], np.int64)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


@pytest.fixture
def minilm() -> tuple[Path, Feeds]:
    path = Path(os.environ.get("ONNXQ_MINILM", "none"))
    if not path.is_file():
        pytest.skip("no MiniLM: set ONNXQ_MINILM to its model.onnx")
    return path, minilm_feeds(path.with_name("tokenizer.json"))


@pytest.fixture(params=["digits", pytest.param("minilm", marks=pytest.mark.shared)])
def model(request: pytest.FixtureRequest) -> tuple[Path, Feeds]:
    if request.param == "digits":
        return DIGITS_MODEL, digits_feeds()
    found: tuple[Path, Feeds] = request.getfixturevalue("minilm")
    return found


def tidied(path: Path) -> GraphModule:
    """Return the model as the passes that fold meet it."""
    module, recipe = load_model(path), load_recipe("fp32")
    PassManager(parse_pipeline(recipe.pipeline), find_target(recipe.target)).run(module)
    return module


def after(path: Path, pipeline: str, feeds: Feeds) -> dict[str, NDArray[Any]]:
    module = tidied(path)
    target, data = find_target("portable"), FeedsData([feeds])
    PassManager(parse_pipeline(pipeline), target, [VerifyEach()], data.measure).run(module)
    return run_model(module, feeds)


@pytest.mark.parametrize("pipeline", FOLDING)
def test_folding_is_exact(model: tuple[Path, Feeds], pipeline: str) -> None:
    path, feeds = model
    before, seen = run_model(tidied(path), feeds), feeds.get("attention_mask", np.ones((16, 1)))
    for name, array in after(path, pipeline, feeds).items():
        difference = (array - before[name])[seen == 1] if array.ndim == 3 else array - before[name]
        assert np.abs(difference).max() < ROUNDING * np.abs(before[name]).max()


def test_powers_of_two_fold_bit_for_bit(model: tuple[Path, Feeds]) -> None:
    path, feeds = model
    module, rng = tidied(path), np.random.default_rng(0)
    before = run_model(module, feeds)
    sites, edit = find_sites(module), Editor(module)
    assert {site.kind for site in sites} == {"norm", "query-key", "value", "activation"}
    for site in sites:
        fold(site, np.exp2(rng.integers(-3, 4, site.count)), edit, why="test")
    for name, array in run_model(module, feeds).items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.shared
@pytest.mark.parametrize("pipeline", ["smooth", "shift-and-scale"])
def test_what_is_folded_is_quantized_better(minilm: tuple[Path, Feeds], pipeline: str) -> None:
    quantize = "encode-weights, encode-activations, insert-qdq"
    assert squared_error(minilm, f"{pipeline}, {quantize}") < squared_error(minilm, quantize)


@pytest.mark.shared
def test_groups_bring_back_what_one_scale_for_all_destroys(minilm: tuple[Path, Feeds]) -> None:
    """With every activation quantized, groups of channels with scales of their own lose less."""
    decide, realise = "encode-weights, encode-activations{scope=all-tensors}", "tie-encodings, insert-qdq"
    grouped = f"{decide}, group-embeddings{{mode=axis}}, {realise}"
    assert squared_error(minilm, grouped) < squared_error(minilm, f"{decide}, {realise}")


def squared_error(model: tuple[Path, Feeds], pipeline: str) -> float:
    """Return the squared error of the output at the real tokens."""
    path, feeds = model
    before, seen = run_model(tidied(path), feeds), feeds["attention_mask"] == 1
    found = after(path, pipeline, feeds)
    return sum(float(np.square(found[name] - array)[seen].sum()) for name, array in before.items())
