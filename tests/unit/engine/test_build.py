"""Trials give the graph that a whole build gives, and run what they have in common once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from onnxq.calibration.data import input_specs, open_feeds
from onnxq.engine.build import Build
from onnxq.engine.measurements import Measurements
from onnxq.engine.source import Source
from onnxq.ir.digest import graph_digest
from onnxq.ir.module import GraphModule
from onnxq.ir.store import load_model, save_model
from onnxq.ir.text import parse
from onnxq.passmanager.base import PassContext
from onnxq.passmanager.pipeline import load_pass
from onnxq.recipe import Recipe

TEXT = """<ir_version: 10, opset_import: ["" : 21]>
main (float[N,4] x) => (float[N,4] y) <float[4,4] w = {WEIGHT}> { h = MatMul(x, w) y = Relu(h) }
"""
PIPELINE = "infer-shapes, encode-weights, encode-activations, insert-qdq, remove-dead"
RECIPE = Recipe(name="mine", pipeline=PIPELINE, needs_data=True)


@pytest.fixture
def build(tmp_path: Path) -> Build:
    weight = np.random.default_rng(0).normal(size=16).round(3).tolist()
    save_model(parse(TEXT.replace("WEIGHT", ", ".join(map(str, weight)))), path := tmp_path / "model.onnx")
    x = np.random.default_rng(1).normal(size=(16, 4)).astype(np.float32)
    data = open_feeds("x", lambda: [{"x": x}], input_specs(load_model(path).model))
    measurements = Measurements.on(data, 1)
    build = Build(Source.of(path), measurements=measurements)
    build.vary(RECIPE, ["encode-activations"])
    return build


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how often two passes ran."""
    counts: Counter[str] = Counter()
    for name in ("encode-weights", "insert-qdq"):
        kind = type(load_pass(name))

        def counted(
            self: object, module: GraphModule, ctx: PassContext, run=kind.run, name: str = name
        ) -> None:
            counts[name] += 1
            run(self, module, ctx)

        monkeypatch.setattr(kind, "run", counted)
    return counts


def test_a_trial_is_the_build(build: Build) -> None:
    for setting in ("encode-activations.method=mse", "encode-weights.granularity=tensor"):
        recipe = RECIPE.with_options([setting])
        for _ in range(2):
            assert graph_digest(build.trial(recipe)) == graph_digest(build.of(recipe).module)


def test_what_trials_have_in_common_runs_once(build: Build, ran: Counter[str]) -> None:
    for method in ("min-max", "mse", "percentile"):
        build.trial(RECIPE.with_options([f"encode-activations.method={method}"]))
    assert ran == {"encode-weights": 1, "insert-qdq": 3}


def test_what_the_next_trials_begin_with_is_kept(build: Build, ran: Counter[str]) -> None:
    tried = RECIPE.with_options(["encode-weights.granularity=tensor"])
    build.trial(RECIPE)
    build.trial(tried)
    build.vary(RECIPE, ["insert-qdq"])
    build.trial(RECIPE)
    build.trial(tried)
    assert ran == {"encode-weights": 2, "insert-qdq": 4}


def test_what_nothing_was_measured_of_yet_stays(build: Build, ran: Counter[str]) -> None:
    for _ in range(2):
        build.trial(RECIPE)
        build.let_go()
    assert ran == {"encode-weights": 1, "insert-qdq": 2}


def test_a_sketch_ends_where_it_is_told_to(build: Build) -> None:
    """The trial keeps graphs from behind that place, too."""
    build.vary(RECIPE, ["encode-weights", "insert-qdq", "remove-dead"])
    build.trial(RECIPE)
    encoded = build.sketch(RECIPE, 2).decisions()
    assert [decision.value.name for decision in encoded] == ["w"]
    assert len(build.sketch(RECIPE, 3).decisions()) == 2


def test_a_kept_graph_is_not_the_one_that_is_handed_out(build: Build) -> None:
    first, second = build.trial(RECIPE), build.trial(RECIPE)
    first.graph.remove(next(iter(reversed(list(first.graph)))))
    assert len(first.graph) < len(second.graph)
    assert graph_digest(build.trial(RECIPE)) == graph_digest(second)


def test_the_rest_of_a_pipeline_counts_where_passes_ask_for_it(build: Build) -> None:
    """Weights that no integers meet keep 8 bits; which processor counts is in the recipe."""
    saturating = RECIPE.model_copy(update={"processor": "avx2"})
    float_inputs = saturating.model_copy(
        update={"pipeline": "infer-shapes, encode-weights, insert-qdq, remove-dead"}
    )
    for recipe in (saturating, float_inputs):
        assert graph_digest(build.trial(recipe)) == graph_digest(build.of(recipe).module)


def test_the_facts_that_passes_read_are_told(build: Build) -> None:
    assert set(build.of(RECIPE).facts) == {"x"}


def test_a_build_knows_which_passes_did_nothing(build: Build) -> None:
    idle = RECIPE.model_copy(update={"pipeline": PIPELINE.replace("insert-qdq", "fuse-gelu, insert-qdq")})
    assert not build.did_nothing(idle, "fuse-gelu")  # nobody knows yet
    build.trial(idle)
    assert build.did_nothing(idle, "fuse-gelu")
    assert not build.did_nothing(idle, "insert-qdq")
    without = RECIPE.model_copy(update={"pipeline": idle.pipeline.replace("encode-weights, ", "")})
    assert not build.did_nothing(without, "fuse-gelu")
