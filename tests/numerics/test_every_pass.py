"""Every installed pass on every model of ``models/``, before its author writes a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxq.ir.digest import graph_digest
from onnxq.ir.module import GraphModule
from onnxq.ir.text import parse
from onnxq.passmanager.instruments import VerifyEach
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.passmanager.registry import pass_names
from onnxq.target import find_target
from onnxq.testing.laws import FeedsData, HoldToPromise, random_feeds, run_model
from onnxq.testing.routes import PIPELINES

pytest.importorskip("onnxruntime", reason="the laws run models")

MODELS = sorted((Path(__file__).parents[2] / "models").glob("*.onnxtxt"))
CPU = find_target("cpu")


@pytest.fixture(params=MODELS, ids=lambda path: path.stem)
def text(request: pytest.FixtureRequest) -> str:
    path: Path = request.param
    return path.read_text(encoding="utf-8")


def compiled(text: str, pipeline: str) -> GraphModule:
    """Run a pipeline, each of its passes held to its promise on two batches."""
    module = parse(text)
    feeds = [random_feeds(module, seed) for seed in range(2)]
    instruments = [VerifyEach(), HoldToPromise(feeds)]
    PassManager(parse_pipeline(pipeline), CPU, instruments, FeedsData(feeds).measure).run(module)
    return module


@pytest.mark.parametrize("name", pass_names())
def test_alone(name: str, text: str) -> None:
    module = compiled(text, f"infer-shapes,{name}")
    assert graph_digest(compiled(text, f"infer-shapes,{name}")) == graph_digest(module)


@pytest.mark.parametrize("pipeline", PIPELINES.values(), ids=PIPELINES)
def test_in_a_pipeline(pipeline: str, text: str) -> None:
    module = compiled(text, pipeline)
    assert graph_digest(compiled(text, pipeline)) == graph_digest(module)
    assert not module.decisions()
    run_model(module, random_feeds(module, seed=2))
