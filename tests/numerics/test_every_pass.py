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

pytest.importorskip("onnxruntime", reason="the laws run models")

MODELS = sorted((Path(__file__).parents[2] / "models").glob("*.onnxtxt"))
CPU = find_target("cpu")

TIDY = (
    "remove-initializer-inputs,inline-functions,lift-constants,fold-constants,convert-opset{minimum=13},"
    "widen-float16,infer-shapes,fold-batch-norm"
)
WEIGHTS = "encode-weights,encode-embeddings"
PIPELINES = {
    "static": f"{TIDY},sum-residuals,{WEIGHTS},sum-biases,encode-activations,fit-biases,encode-biases,"
    "tie-encodings,insert-qdq,remove-dead",
    "clipped": f"{TIDY},sum-residuals,{WEIGHTS},sum-biases,encode-activations,"
    "correct-clipping{channels=1, gain=0},encode-biases,tie-encodings,insert-qdq,fold-clips,remove-dead",
    "folded": f"{TIDY},sum-residuals,shift-and-scale{{steps=3}},smooth{{steps=3}},"
    f"group-embeddings{{shift=true}},{WEIGHTS},sum-biases,encode-activations,encode-biases,tie-encodings,"
    "insert-qdq,remove-dead",
    "equalized and rounded": f"{TIDY},unfuse-gemm,sum-residuals,equalize-activations,encode-weights,"
    "round-weights,encode-embeddings,sum-biases,encode-activations,encode-biases,tie-encodings,"
    "insert-qdq,remove-dead",
    "grouped": f"{TIDY},{WEIGHTS},encode-activations{{scope=all-tensors}},"
    "group-embeddings{mode=axis, groups=2},encode-biases,tie-encodings,insert-qdq,remove-dead",
    "split by groups": f"{TIDY},group-embeddings{{mode=split, groups=2, kinds=norm+value+relu}},{WEIGHTS},"
    "encode-activations,encode-biases,tie-encodings,insert-qdq,remove-dead",
    "all-tensors": f"{TIDY},{WEIGHTS},encode-activations{{scope=all-tensors}},encode-biases,tie-encodings,"
    "insert-qdq,remove-dead",
    "mixed": f"{TIDY},convert-opset{{minimum=21}},{WEIGHTS},encode-activations{{scope=all-tensors}},"
    "mixed-precision{levels=128},encode-biases,tie-encodings,insert-qdq,remove-dead",
    "dynamic": f"{TIDY},sum-residuals,{WEIGHTS},sum-biases,quantize-dynamically,insert-qdq,remove-dead",
    "blocks": f"{TIDY},convert-opset{{minimum=21}},unfuse-gemm,encode-weight-blocks,"
    "encode-embeddings{block=32, minimum=1},insert-qdq,remove-dead",
    "weight-only": f"{TIDY},{WEIGHTS},insert-qdq,remove-dead",
    "split": f"{TIDY},split-linear,sum-biases,encode-activations,encode-biases,insert-qdq,remove-dead",
    "split branches": f"{TIDY},split-linear{{mode=branches, bits=2}},encode-activations,encode-biases,"
    "insert-qdq,remove-dead",
    "split packed": f"{TIDY},convert-opset{{minimum=25}},unfuse-gemm,"
    "split-linear{mode=branches, bits=2, scope=tensor, packed=true},insert-qdq,remove-dead",
    "split blocks": f"{TIDY},convert-opset{{minimum=21}},"
    "split-linear{mode=branches, scope=block, block=32},insert-qdq,remove-dead",
    "half": f"{TIDY},lower-precision,remove-dead",
    "half with blocks": f"{TIDY},convert-opset{{minimum=21}},unfuse-gemm,"
    "encode-weight-blocks{symmetric=true},"
    "encode-embeddings{block=32, minimum=1},insert-qdq,fuse-block-matmul,infer-shapes,lower-precision,"
    "remove-dead",
    "half with float8": f"{TIDY},convert-opset{{minimum=21}},unfuse-gemm,"
    "encode-weight-blocks{float8=true, bits=8, block=32, symmetric=true},insert-qdq,remove-dead,infer-shapes,"
    "lower-precision,fuse-float8-matmul,remove-dead",
    "float8": f"{TIDY},convert-opset{{minimum=19}},encode-weights{{dtype=float8e4m3fn}},"
    "encode-activations{dtype=float8e4m3fn},insert-qdq,remove-dead",
}


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
    assert not module.decisions
    run_model(module, random_feeds(module, seed=2))
