"""What equalization promises on networks with random weights, in ONNX Runtime."""

from __future__ import annotations

import re

import numpy as np
import pytest

from onnxq.errors import PipelineError
from onnxq.ir.module import GraphModule, array_of
from onnxq.ir.text import parse
from onnxq.passmanager.instruments import VerifyEach
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import load_pass, parse_pipeline
from onnxq.target import find_target
from onnxq.testing.laws import FeedsData, HoldToPromise, run_model

SHAPES = {"W1": (8, 3, 3, 3), "B1": (8,), "W2": (8, 1, 3, 3), "B2": (8,), "W3": (4, 8, 1, 1), "B3": (4,)}
TEXT = """<ir_version: 10, opset_import: ["" : 21]>
main (float[N,3,8,8] x) => (float[N,4,8,8] y)
<float[8,3,3,3] w1 = {W1}, float[8] b1 = {B1}, float[8,1,3,3] w2 = {W2}, float[8] b2 = {B2},
 float[4,8,1,1] w3 = {W3}, float[4] b3 = {B3}>
{
    [first] h = Conv<pads = [1, 1, 1, 1]>(x, w1, b1)
    [act] r = Relu(h)
    [depth] d = Conv<group = 8, pads = [1, 1, 1, 1]>(r, w2, b2)
    [act2] s = Relu(d)
    [point] y = Conv(s, w3, b3)
}
"""


def network(seed: int, spread: float) -> tuple[str, FeedsData]:
    """Return a depthwise network whose channels differ in size by up to ``spread`` squared, and data."""
    rng, text = np.random.default_rng(seed), TEXT
    sizes = {name: spread ** rng.uniform(-1, 1, 8) for name in ("W1", "W2")}
    for name, shape in SHAPES.items():
        array = rng.normal(size=shape) * sizes.get(name, np.ones(shape[0])).reshape(
            -1, *[1] * (len(shape) - 1)
        )
        if name == "W3":  # so that the output is of the size of one
            array = array / (sizes["W1"] * sizes["W2"]).reshape(1, -1, 1, 1)
        text = text.replace(
            f"{{{name}}}", "{" + ", ".join(str(w) for w in array.astype(np.float32).flat) + "}"
        )
    return text, FeedsData([{"x": rng.normal(size=(2, 3, 8, 8)).astype(np.float32)} for _ in range(2)])


def compiled(text: str, pipeline: str, data: FeedsData) -> GraphModule:
    module = parse(text)
    instruments = [VerifyEach(), HoldToPromise(data.feeds)]
    PassManager(parse_pipeline(pipeline), find_target("cpu"), instruments, data.measure).run(module)
    return module


def outputs(text: str, pipeline: str, data: FeedsData) -> np.ndarray:
    module = compiled(text, pipeline, data)
    result: np.ndarray = np.concatenate([run_model(module, feeds)["y"] for feeds in data.feeds])
    return result


@pytest.mark.parametrize("seed", range(4))
def test_neighbours_end_with_channels_of_equal_weight(seed: int) -> None:
    """After the last round, no scale moves by more than a thousandth: both sides agree as closely."""
    text, data = network(seed, 30.0)
    layers = {node.name: node for node in compiled(text, "infer-shapes,equalize-layers", data).graph}
    first, depth, point = (
        np.abs(array_of(layers[name].inputs[1])).max(axis=axes)
        for name, axes in (("first", (1, 2, 3)), ("depth", (1, 2, 3)), ("point", (0, 2, 3)))
    )
    np.testing.assert_allclose(first, depth, rtol=2e-3)
    np.testing.assert_allclose(depth, point, rtol=2e-3)


@pytest.mark.parametrize("seed", range(4))
def test_one_scale_for_a_weight_suffices_once_it_is_equalized(seed: int) -> None:
    text, data = network(seed, 30.0)
    exact = outputs(text, "infer-shapes", data)
    weights = "encode-weights{granularity=tensor}, insert-qdq"
    plain, equalized = (
        np.square(outputs(text, f"infer-shapes, {extra} {weights}", data) - exact).mean()
        for extra in ("", "equalize-layers,")
    )
    assert equalized < plain / 10


@pytest.mark.parametrize("seed", range(4))
def test_absorbing_changes_nothing_on_the_calibration_data(seed: int) -> None:
    """Within float32 rounding: the sums have at most 72 terms, each below ``scale``."""
    text, data = network(seed, 2.0)
    text = re.sub(r"b2 = \{[^}]*\}", "b2 = {99, 99, 99, 99, 0, 0, 0, 0}", text)
    exact, absorbed = (outputs(text, f"infer-shapes {extra}", data) for extra in ("", ", absorb-bias"))
    module = compiled(text, "infer-shapes, absorb-bias", data)
    assert any(name.startswith("d_bias") for name in module.graph.initializers)
    scale = 99 * 8 * 2.0
    np.testing.assert_allclose(absorbed, exact, rtol=0, atol=72 * scale * 2**-23)


@pytest.mark.parametrize("alpha", ["0", "-0.5", "1.5"])
def test_equalizing_by_nothing_is_refused_and_told_how_to_say_it(alpha: str) -> None:
    message = r"alpha lies above 0 and is at most 1: equalize-activations\{off\} changes nothing"
    with pytest.raises(PipelineError, match=message):
        load_pass(f"equalize-activations{{alpha={alpha}}}")
