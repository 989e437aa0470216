"""Reconstruction: what it brings on a residual network, and what it leaves as it was."""

import pickle
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxq.analysis.blocks import find_blocks
from onnxq.errors import CalibrationError
from onnxq.ir.digest import graph_digest
from onnxq.ir.module import GraphModule, name_of
from onnxq.passmanager.instruments import VerifyEach
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.memo import Memo
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session
from onnxq.target import find_target
from onnxq.testing.laws import FeedsData, FeedsRuntime, run_model
from onnxq.training.reconstruction import Reconstruction, Unit
from onnxq.training.trainee import prepared, trainee_of

Build = Callable[..., GraphModule]
Feeds = Mapping[str, Any]

NETWORK = """main (float[N,5,8] x) => (float[N,5,8] y) {
    [stem] s = MatMul(x, w)
    [n1] n = LayerNormalization<axis = -1>(s, one)
    [up] u = MatMul(n, w1)
    [act] a = Relu(u)
    [down] d = MatMul(a, w2)
    [sum] h = Add(s, d)
    [last] l = MatMul(h, w3)
    [end] y = Tanh(l)
}"""
BEFORE = "encode-weights{bits=4}, encode-activations{bits=4, scope=gemm-io},"


def _network(build: Build) -> GraphModule:
    rng = np.random.default_rng(0)
    shapes = {"w": (8, 8), "w1": (8, 16), "w2": (16, 8), "w3": (8, 8)}
    weights = {name: rng.normal(size=shape).astype(np.float32) / 3 for name, shape in shapes.items()}
    return build(NETWORK, {**weights, "one": np.ones(8, np.float32)})


def _feeds(seed: int, count: int = 6) -> tuple[Feeds, ...]:
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(8, 8))
    return tuple({"x": (rng.normal(size=(8, 5, 8)) @ mixed).astype(np.float32)} for _ in range(count))


def _compiled(module: GraphModule, pipeline: str) -> tuple[GraphModule, PassManager]:
    feeds = _feeds(0)
    manager = PassManager(
        parse_pipeline(f"infer-shapes, {pipeline}"),
        find_target("cpu"),
        [VerifyEach()],
        FeedsData(feeds).measure,
        runtime=FeedsRuntime(feeds),
    )
    manager.run(module)
    return module, manager


def _error(build: Build, rounding: str) -> float:
    """Return the squared error of other samples, as the integers compute it."""
    module, _ = _compiled(_network(build), f"{BEFORE} {rounding} insert-qdq")
    feeds = _feeds(0, 12)[6:]
    found = [run_model(module, one)["y"] - run_model(_network(build), one)["y"] for one in feeds]
    return float(np.mean(np.square(found)))


def test_the_output_errs_less_on_other_samples(build: Build) -> None:
    assert _error(build, "reconstruct{steps=300},") < 0.75 * _error(build, "")


def test_the_same_input_gives_the_same_bytes(build: Build) -> None:
    digests = {
        graph_digest(_compiled(_network(build), f"{BEFORE} reconstruct{{steps=20}}, insert-qdq")[0])
        for _ in range(2)
    }
    assert len(digests) == 1


def test_blocks_compute_what_the_quantized_model_does(build: Build) -> None:
    """With rounding to nearest: in float, and with all switches on."""
    module, _ = _compiled(_network(build), BEFORE.rstrip(","))
    blocks = find_blocks(module, lambda node: node.op_type == "MatMul")
    base, (feeds, *_) = prepared(module.undecided()), _feeds(1)
    exact, quantized = feeds["x"], feeds["x"]
    for block in blocks:
        trainee = trainee_of(block, base)
        run = open_session(ir.to_proto(trainee.module.model), Run(threads=1)).run
        (name,) = [name_of(value) for value in block.reads]
        work = Reconstruction(
            trainee, run, [Unit({name: exact}, {name: quantized})], np.random.default_rng(0)
        )
        (exact,), (quantized,) = work.targets, work.outputs(work.nearest, work.scales)
    assert [name_of(block.output) for block in blocks] == ["s", "h", "y"]
    # Sums of at most 16 products are rounded in another order, and a few Tanhs follow.
    np.testing.assert_allclose(exact, run_model(_network(build), feeds)["y"], atol=1e-5)
    written, _ = _compiled(_network(build), f"{BEFORE} insert-qdq")
    found = open_session(ir.to_proto(written.model), Run(threads=1), optimization="none").run(feeds)["y"]
    # Where the other order takes a number over the border between two steps, one of thousands differs.
    assert np.mean(np.abs(quantized - found) > 1e-4) < 0.02


def test_without_data_it_says_so(build: Build) -> None:
    module = _network(build)
    passes = parse_pipeline("infer-shapes, encode-weights, reconstruct")
    with pytest.raises(CalibrationError, match="its blocks have to be run") as caught:
        PassManager(passes, find_target("cpu")).run(module)
    assert caught.value.where == "block of 's'"


def test_what_was_learned_is_kept_for_the_next_build_and_goes_to_other_processes(build: Build) -> None:
    memo, feeds = Memo(), _feeds(0)
    passes = parse_pipeline(f"infer-shapes, {BEFORE} reconstruct{{steps=10}}, insert-qdq")
    manager = PassManager(
        passes, find_target("cpu"), measure=FeedsData(feeds).measure, runtime=FeedsRuntime(feeds), memo=memo
    )
    first, again = _network(build), _network(build)
    manager.run(first)
    manager.memo, manager.runtime = pickle.loads(pickle.dumps(memo)), FeedsRuntime(())
    manager.run(again)
    assert graph_digest(first) == graph_digest(again)
