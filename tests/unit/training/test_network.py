"""The training graph: its slopes against the formulas of LSQ, and its numbers against the integer graph's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxq.engine.teaching import goals_of, learned_of
from onnxq.errors import ModelError
from onnxq.finetuning import put_back
from onnxq.ir.module import GraphModule
from onnxq.ir.text import parse
from onnxq.passmanager.instruments import VerifyEach
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.quant.encodings import symmetric_encoding
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session
from onnxq.target import find_target
from onnxq.testing.laws import FeedsData
from onnxq.testing.running import run_model
from onnxq.training.fitting import Check, Fitting, Plan
from onnxq.training.goals import Goal
from onnxq.training.learned import Gridded
from onnxq.training.network import LOSS, Network, network_of
from onnxq.training.pool import Part, Pool

RNG = np.random.default_rng(3)
ROWS, WIDE, INNER, CLASSES = 16, 12, 10, 4
SHAPES = {"w1": (WIDE, INNER), "b1": (INNER,), "w2": (INNER, CLASSES), "b2": (CLASSES,)}
WEIGHTS = {name: np.random.default_rng(5).normal(size=shape) / 2 for name, shape in SHAPES.items()}
CONSTANTS = ", ".join(
    f"float[{','.join(map(str, array.shape))}] {name} = {{{', '.join(f'{one:.6f}' for one in array.flat)}}}"
    for name, array in WEIGHTS.items()
)
TEXT = f"""<ir_version: 10, opset_import: ["" : 21]>
main (float[N,{WIDE}] x) => (float[N,{CLASSES}] y) <{CONSTANTS}> {{
    [up] u = MatMul(x, w1)
    [add] a = Add(u, b1)
    [act] h = Relu(a)
    [down] y = Gemm(h, w2, b2)
}}"""
X = (RNG.normal(size=(ROWS, WIDE)) + 0.3).astype(np.float32)
GOAL = Goal("y", "target", "mse")
WANTED = RNG.normal(size=(ROWS, CLASSES)).astype(np.float32)


def _decided(pipeline: str = "encode-weights{bits=4}, encode-activations{bits=4, method=mse}") -> GraphModule:
    module = parse(TEXT)
    _run(module, f"infer-shapes, {pipeline}")
    return module


def _run(module: GraphModule, pipeline: str) -> None:
    data = FeedsData(({"x": X},))
    PassManager(parse_pipeline(pipeline), find_target("cpu"), [VerifyEach()], data.measure).run(module)


def _fed(network: Network, target: Any = WANTED) -> dict[str, Any]:
    learned = learned_of(network)
    return {k: v for one in learned for k, v in one.fed.items()} | {"x": X, "target": target}


def _found(network: Network, feeds: Mapping[str, Any]) -> Mapping[str, Any]:
    return open_session(ir.to_proto(network.training.model), Run(threads=1)).run(feeds)


def test_slopes_are_those_of_lsq() -> None:
    module = _decided()
    network = network_of(module, [GOAL])
    feeds = _fed(network)
    found = _found(network, feeds)
    grid = network.grids["x_scale"]
    low, high = (limit - int(grid.encoding.zero_point) for limit in grid.encoding.limits)
    scale, steps = float(grid.encoding.scale), X.astype(np.float64) / float(grid.encoding.scale)
    inside = (steps >= low) & (steps <= high)
    assert 0 < inside.sum() < inside.size
    slope = _slope_of_quantized(network, feeds)
    by_scale = (slope * np.where(inside, np.round(steps) - steps, np.clip(steps, low, high))).sum()
    # Sums of 192 products in float32, beside float64.
    np.testing.assert_allclose(found["x_scale_slope"], by_scale, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["x_offset_slope"], -scale * slope[~inside].sum(), rtol=1e-4, atol=1e-5)
    assert found["x_scale_size"] == X.size


def _slope_of_quantized(network: Network, feeds: Mapping[str, Any]) -> Any:
    """Compute the loss's slope by what the first product reads, in float64."""
    grid, hidden = network.grids["x_scale"].encoding, network.grids["h_scale"].encoding
    w1, w2 = (feeds[f"{name}_weight"].astype(np.float64) for name in ("w1", "w2"))
    a = grid.restored(X) @ w1 + feeds["b1_weight"]
    inside = (a > 0) & (a <= float(hidden.high))
    y = hidden.restored(np.maximum(a, 0).astype(np.float32)) @ w2 + feeds["b2_weight"]
    return (2 * (y - WANTED) / y.size @ w2.T * inside) @ w1.T


def test_all_that_is_trained_is_found() -> None:
    network = network_of(_decided(), [GOAL])
    assert sorted(network.parameters) == ["b1_weight", "b2_weight", "w1_weight", "w2_weight"]
    assert {name: one.encoding is not None for name, one in network.parameters.items()} == {
        "w1_weight": True,
        "b1_weight": False,
        "w2_weight": True,
        "b2_weight": False,
    }
    assert sorted(network.grids) == ["h_scale", "x_scale"]
    assert network.grids["h_scale"].offset is None  # behind a Relu the zero point is 0, and stays so


def test_weights_lie_where_their_encoding_puts_them_and_move_straight_through() -> None:
    weight = RNG.normal(size=(5, 3)).astype(np.float32)
    largest = np.abs(weight).max(axis=0) * 0.8
    one = Gridded("w", weight, symmetric_encoding(largest, "int8", axis=1, limit=7))
    one.variables["w_ratio"] *= np.float32([0.9, 1.0, 1.1])
    one.refresh()
    np.testing.assert_array_equal(one.result, one.encoding.restored(weight))
    slope = RNG.normal(size=weight.shape).astype(np.float32)
    found = one.slopes({"w_slope": slope}, 1)
    steps = weight / one.scale
    inside = np.abs(steps) <= 7
    np.testing.assert_array_equal(found["w"], slope * inside)
    expected = (slope * np.where(inside, np.round(steps) - steps, np.sign(steps) * 7)).sum(axis=0)
    # The gradient scale of LSQ, and that of a ratio beside that of a scale in SGD.
    np.testing.assert_allclose(found["w_ratio"], expected / np.sqrt(5 * 7) / one.begun.scale, rtol=1e-4)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_integer_graph_computes_what_was_trained(bits: int) -> None:
    """Each value that the second product reads differs by one step at most, the biases by half of theirs."""
    encode = f"encode-weights{{bits={bits}}}, encode-activations{{bits={bits}, method=mse}}"
    module = _decided(encode)
    network = network_of(module, [GOAL])
    fitting = Fitting(
        Plan(steps=0), learned_of(network), Pool([Part({}, 1)], 1), lambda feeds: feeds, _unjudged
    )
    rng = np.random.default_rng(0)
    for array in fitting.variables.values():
        array += np.asarray(rng.uniform(-0.02, 0.02, array.shape), np.float32)
    for one in fitting.learned:
        one.refresh()
    feeds = {k: v for one in fitting.learned for k, v in one.fed.items()} | {"x": X, "target": WANTED}
    trained = open_session(ir.to_proto(network.evaluation.model), Run(threads=1)).run(feeds)["y"]
    put_back(module, network, fitting)
    _run(module, "encode-biases, insert-qdq, remove-dead")
    integers = open_session(ir.to_proto(module.model), Run(threads=1), optimization="none").run({"x": X})["y"]
    step = float(feeds["h_scale"])
    w2 = np.abs(feeds["w2_weight"])
    bias = step * next(one for one in fitting.learned if getattr(one, "name", "") == "w2_weight").scale / 2
    largest = float(np.abs(trained).max())
    rounding = 2 * INNER * np.finfo(np.float32).eps * (largest + float(w2.sum()) * step * 2**bits)
    bound = bias + rounding
    off = np.abs(integers - trained)
    assert (off <= bound + step * w2.sum(axis=0)).all()
    # What reaches the second grid differs by rounding alone, and lies at a border hardly ever.
    assert (off <= bound).mean() > 0.9


def _unjudged(step: int) -> Check:
    return Check(step, 0.0, None)


def test_what_cannot_be_learned_is_told() -> None:
    module = _decided("encode-weights, encode-activations{dtype=float8e4m3fn}")
    with pytest.raises(ModelError, match="its grid cannot be learned") as caught:
        network_of(module, [GOAL])
    assert caught.value.where == "value 'x'"


def test_outputs_may_be_on_grids_too_and_only_standard_operators_are_left() -> None:
    module = _decided("encode-weights, encode-activations{scope=all-tensors, bits=3}")
    network = network_of(module, [GOAL])
    feeds = _fed(network)
    _, found = open_session(ir.to_proto(network.evaluation.model), Run(threads=1)).run(feeds).values()
    grid = network.grids["y_scale"].encoding
    np.testing.assert_array_equal(found, grid.restored(found))
    assert 4 < np.unique(found).size <= 8
    assert {node.domain for graph in (network.training, network.evaluation) for node in graph.graph} == {""}


def test_the_grid_of_a_softmax_stays() -> None:
    module = parse(TEXT.replace("Relu(a)", "Softmax(a)"))
    _run(module, "infer-shapes, encode-weights, encode-activations")
    network = network_of(module, [GOAL])
    assert sorted(network.grids) == ["x_scale"]
    feeds = _fed(network)
    found = open_session(ir.to_proto(network.evaluation.model), Run(threads=1)).run(feeds)["y"]
    a = network.grids["x_scale"].encoding.restored(X).astype(np.float64) @ feeds["w1_weight"]
    h = np.round(np.exp(_log_softmax(a + feeds["b1_weight"])) * 255) / 255
    # A sum of a few products in float32; a number near a border may be a step off, which w2 makes 0.01.
    np.testing.assert_allclose(found, h @ feeds["w2_weight"] + feeds["b2_weight"], atol=0.01)


@pytest.mark.parametrize("kind", ["cross-entropy", "kl", "mse"])
def test_losses_are_their_formulas(kind: Any) -> None:
    network = network_of(_decided().undecided(), [Goal("y", "target", kind)])
    classes = np.arange(ROWS, dtype=np.int64) % CLASSES
    target = classes if kind == "cross-entropy" else WANTED
    found = open_session(ir.to_proto(network.evaluation.model), Run(threads=1)).run(_fed(network, target))
    y = found["y"].astype(np.float64)
    np.testing.assert_allclose(y, run_model(_decided().undecided(), {"x": X})["y"], rtol=1e-5, atol=1e-6)
    expected = {
        "cross-entropy": -_log_softmax(y)[np.arange(ROWS), classes].mean(),
        "kl": (np.exp(_log_softmax(WANTED)) * (_log_softmax(WANTED) - _log_softmax(y))).sum(-1).mean(),
        "mse": np.square(y - WANTED).mean(),
    }
    np.testing.assert_allclose(found[LOSS], expected[kind], rtol=1e-5)


@pytest.mark.parametrize("kind", ["cross-entropy", "kl"])
def test_classes_may_lie_along_an_axis_before_the_last(kind: Any) -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]> main (float[N,3,1,1] x) => (float[N,3,1,1] y)
    <float[3,1,1,1] w = {0.5, -0.25, 2}> { l = Conv<group=3>(x, w)
    y = Softmax<axis=1>(l) }"""
    module = parse(text)
    goals = goals_of(module, kind)
    assert [goal.value for goal in goals] == ["l"]
    x = np.random.default_rng(0).normal(size=(5, 3, 1, 1)).astype(np.float32)
    other = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    network = network_of(module, goals)
    target = np.arange(5) % 3 if kind == "cross-entropy" else other
    fed = {k: v for one in learned_of(network) for k, v in one.fed.items()}
    feeds = {**fed, "x": x, goals[0].target: target}
    found = open_session(ir.to_proto(network.evaluation.model), Run(threads=1)).run(feeds)[LOSS]
    log_q = _log_softmax(x.reshape(5, 3) * np.float32([0.5, -0.25, 2]))
    log_p = _log_softmax(other.reshape(5, 3))
    expected = -log_q[np.arange(5), target].mean() if kind == "cross-entropy" else None
    expected = (np.exp(log_p) * (log_p - log_q)).sum(-1).mean() if expected is None else expected
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def _log_softmax(logits: Any) -> Any:
    logits = logits.astype(np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))
