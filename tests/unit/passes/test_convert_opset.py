"""Raising an old model's operator set changes neither its numbers nor its weights."""

from collections.abc import Callable

import numpy as np

from onnxq.ir.module import GraphModule, array_of
from onnxq.passmanager.instruments import VerifyEach
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.target import find_target
from onnxq.testing.laws import HoldToPromise, random_feeds, run_model

OLD = '<ir_version: 4, opset_import: ["" : 8]>'
BODY = """main (float[N,40,1] x, float[N,40] z) => (float[N,40] y)
{
    [norm] n = BatchNormalization(x, gamma, beta, mean, variance)
    [squeeze] s = Squeeze <axes: ints = [2]> (n)
    [linear] h = Gemm <transB: int = 1> (s, w, b)
    [act] a = Softmax(h)
    [sum] y = Add(a, z)
}"""


def test_weights_small_and_large_come_through(build: Callable[..., GraphModule]) -> None:
    rng = np.random.default_rng(0)
    names = ("gamma", "beta", "mean", "b")
    weights = {name: rng.normal(size=40).astype(np.float32) for name in names}
    weights["variance"] = rng.uniform(0.5, 2, 40).astype(np.float32)
    weights["w"] = rng.normal(size=(40, 40)).astype(np.float32)
    assert weights["w"].nbytes > 4096 > weights["b"].nbytes

    module = build(BODY, weights, OLD)
    feeds = random_feeds(module, seed=0)
    before = run_model(module, feeds)
    instruments = [VerifyEach(), HoldToPromise([feeds])]
    PassManager(parse_pipeline("convert-opset"), find_target("cpu"), instruments).run(module)

    assert module.opset == 13
    assert module.model.ir_version >= 7
    assert [value.name for value in module.graph.inputs] == ["x", "z"]
    for name, array in weights.items():
        np.testing.assert_array_equal(array_of(module.graph.initializers[name]), array)
    # HoldToPromise has bounded the difference; the same kernels run, so there is none.
    np.testing.assert_array_equal(run_model(module, feeds)["y"], before["y"])


def test_a_second_time_changes_nothing(build: Callable[..., GraphModule]) -> None:
    module = build("main (float[N] x) => (float[N] y) { y = Relu(x) }", {}, OLD)
    first, second = (
        PassManager(parse_pipeline("convert-opset"), find_target("cpu"), [VerifyEach()]).run(module)[0]
        for _ in range(2)
    )
    assert [edit.why for edit in first.edits] == ["operator set 8 has no per-channel scales"]
    assert not second.edits


def test_a_large_weight_that_callers_may_override_stays_an_input(build: Callable[..., GraphModule]) -> None:
    weight = np.random.default_rng(0).normal(size=(40, 40)).astype(np.float32)
    body = "main (float[N,40] x, float[40,40] w) => (float[N,40] y) { h = MatMul(x, w) y = Softmax(h) }"
    module = build(body, {"w": weight}, OLD)
    feeds = {"x": np.ones((2, 40), np.float32), "w": 2 * weight}
    instruments = [VerifyEach(), HoldToPromise([feeds, {"x": feeds["x"]}])]
    PassManager(parse_pipeline("convert-opset"), find_target("cpu"), instruments).run(module)
    assert [value.name for value in module.graph.inputs] == ["x", "w"]
    assert module.opset == 13
