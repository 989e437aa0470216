"""What correct-bias promises beyond its golden cases: means survive the rounding of weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from onnxq.ir.digest import graph_digest
from onnxq.ir.module import GraphModule
from onnxq.ir.text import parse
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.quant.facts import Facts, Need
from onnxq.recipe import load_recipe
from onnxq.target import find_target
from onnxq.testing.laws import FeedsData, run_model

TEXT = """<ir_version: 10, opset_import: ["" : 21]>
main (float[N,4,6,6] x) => (float[N,6,4,4] y)
<float[6,2,3,3] w = {WEIGHTS}, float[6] b = {1, 2, 3, 4, 5, 6}>
{
    [conv] y = Conv<group = 2>(x, w, b)
}
"""


def compiled(text: str, pipeline: str, data: FeedsData) -> GraphModule:
    module = parse(text)
    PassManager(parse_pipeline(pipeline), find_target("cpu"), (), data.measure).run(module)
    return module


def test_each_output_channel_keeps_its_mean() -> None:
    """Without the correction, the mean of a channel moves by some of its weights' rounding errors.

    Every channel of an image is constant here, so that each of its positions has the same mean whatever the
    tap of the kernel that reads it; the mean input is then known exactly. What remains is float32 rounding:
    18 products and a bias for each output, numbers below 64, hence an error below 20 * 64 * 2^-23 < 2e-4.
    """
    rng = np.random.default_rng(0)
    weights = ", ".join(str(w) for w in rng.normal(size=108).astype(np.float32))
    text = TEXT.replace("WEIGHTS", weights)
    levels = rng.uniform(1, 3, (8, 4, 1, 1)).astype(np.float32)
    feeds = {"x": np.ascontiguousarray(np.broadcast_to(levels, (8, 4, 6, 6)))}
    data = FeedsData([feeds])

    def mean(pipeline: str) -> np.ndarray:
        result: np.ndarray = run_model(compiled(text, pipeline, data), feeds)["y"].mean(axis=(0, 2, 3))
        return result

    original = mean("infer-shapes")
    plain, corrected = (
        np.abs(mean(f"infer-shapes, encode-weights, {extra} insert-qdq") - original)
        for extra in ("", "correct-bias,")
    )
    assert plain.max() > 5e-3
    assert corrected.max() < 2e-4


CHAIN = """<ir_version: 10, opset_import: ["" : 21]>
main (float[N,4,6,6] x) => (float[N,5] y)
<float[4,4,1,1] w1 = {W1}, float[4] b1 = {1, 2, 3, 4}, float[6,4,1,1] w2 = {W2},
 float[6,5] w3 = {W3}, float[5] b3 = {5, 4, 3, 2, 1}, int64[2] axes = {2, 3}>
{
    [first] h = Conv(x, w1, b1)
    [act] r = Relu(h)
    [second] s = Conv(r, w2)
    [mean] m = ReduceMean<keepdims = 0>(s, axes)
    [product] p = MatMul(m, w3)
    [sum] y = Add(p, b3)
}
"""


def chain(seed: int) -> tuple[str, FeedsData]:
    """Return two Convs and a MatMul with random weights, and data for them."""
    rng = np.random.default_rng(seed)
    text = CHAIN
    for name, size in (("W1", 16), ("W2", 24), ("W3", 30)):
        numbers = ", ".join(str(w) for w in rng.normal(size=size).astype(np.float32))
        text = text.replace(name, numbers)
    feeds = [{"x": rng.normal(1, 2, (4, 4, 6, 6)).astype(np.float32)} for _ in range(3)]
    return text, FeedsData(feeds)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.usefixtures("kernels_of_the_processor")
def test_empirical_means_are_those_of_the_float_model(seed: int) -> None:
    """Percentile ranges cut much off, which moves the means; layer by layer, the correction takes it back.

    The bias of a MatMul stays in float, and the last layer's mean is what was measured: what remains is
    float32 rounding of means below 64 over three layers of at most 7 terms, below 21 * 64 * 2^-23 < 2e-4.
    """
    text, data = chain(seed)
    pipeline = "infer-shapes, encode-weights, encode-activations{method=percentile, outputs=none},"

    def mean(pipeline: str) -> np.ndarray:
        module = compiled(text, pipeline, data)
        runs = [run_model(module, feeds)["y"] for feeds in data.feeds]
        result: np.ndarray = np.concatenate(runs).mean(axis=0)
        return result

    original = mean("infer-shapes")
    plain, analytic, empirical = (
        np.abs(mean(f"{pipeline} {extra} encode-biases, insert-qdq") - original).max()
        for extra in ("", "correct-bias,", "correct-bias{method=empirical},")
    )
    assert plain > 1e-2
    assert analytic > 2e-4
    assert empirical < 2e-4


def test_measured_means_are_found_again_by_name() -> None:
    """Whoever keeps the facts can compile again without data, as a calibration table does."""
    text, data = chain(0)
    kept: dict[str, Facts] = {}

    def measure(module: GraphModule, needs: Sequence[Need]) -> Mapping[str, Facts]:
        kept.update(data.measure(module, needs))
        return kept

    pipeline = "infer-shapes, encode-weights, encode-activations, correct-bias{method=empirical}"
    digests = []
    for source in (measure, lambda module, needs: kept):
        module = parse(text)
        PassManager(parse_pipeline(pipeline), find_target("cpu"), (), source).run(module)
        digests.append(graph_digest(module))
    assert digests[0] == digests[1]
    assert sum("_quantized_" in name for name in kept) == 3


NORMAL = """<ir_version: 10, opset_import: ["" : 21]>
main (float[N,8,4,4] x) => (float[N,3,4,4] y)
<float[8] gamma = {GAMMA}, float[8] beta = {BETA}, float[8] mean = {0, 0, 0, 0, 0, 0, 0, 0},
 float[8] variance = {1, 1, 1, 1, 1, 1, 1, 1}, float[3,8,1,1] w = {WEIGHTS}>
{
    [norm] n = BatchNormalization<epsilon = 0.0>(x, gamma, beta, mean, variance)
    [act] r = ACT(n)
    [conv] y = Conv(r, w)
}
"""


@pytest.mark.parametrize("act", ["Relu", "HardSwish", "LeakyRelu", "Sigmoid"])
def test_assumed_means_need_no_data(act: str) -> None:
    """Where the statistics hold, the means come back to within what a sample of the data is off by.

    One output errs by the sum of its weights' errors times what they meet: independent channels, whose
    deviation is at most that of the normal value, |gamma| < 2, as these functions are no steeper than 1.2. A
    mean over n positions deviates by that over sqrt(n); 5 times that is not reached by chance.
    """
    rng = np.random.default_rng(3)
    text = NORMAL.replace("ACT", act)
    for name, numbers in (
        ("GAMMA", rng.uniform(0.5, 2, 8)),
        ("BETA", rng.normal(size=8)),
        ("WEIGHTS", np.append(rng.normal(size=23), 60)),
    ):
        text = text.replace(name, ", ".join(str(number) for number in numbers.astype(np.float32)))
    feeds = {"x": rng.normal(size=(4000, 8, 4, 4)).astype(np.float32)}

    def mean(pipeline: str) -> np.ndarray:
        module = parse(text)
        PassManager(parse_pipeline(pipeline), find_target("cpu")).run(module)
        result: np.ndarray = run_model(module, feeds)["y"].mean(axis=(0, 2, 3))
        return result

    original = mean("infer-shapes")
    coarse = "encode-weights{granularity=tensor}"
    plain, corrected = (
        np.abs(mean(f"infer-shapes, {extra} insert-qdq") - original).max()
        for extra in (f"{coarse},", f"assume-batch-norms, {coarse}, correct-bias{{method=assumed}},")
    )
    step = 60 / 127
    tolerance = 5 * 1.2 * 2 * np.sqrt(8) * step / 2 / np.sqrt(4000 * 16)
    assert corrected < tolerance < plain / 2


FOLDED = """<ir_version: 10, opset_import: ["" : 21]>
main (float[N,4,4,4] x) => (float[N,3,4,4] y)
<float[8,4,1,1] w1 = {SIGNS}, float[8] gamma = {GAMMA}, float[8] beta = {BETA},
 float[8] mean = {0, 0, 0, 0, 0, 0, 0, 0}, float[8] variance = {4, 4, 4, 4, 4, 4, 4, 4},
 float[3,8,1,1] w2 = {WEIGHTS}>
{
    [first] h = Conv(x, w1)
    [norm] n = BatchNormalization<epsilon = 0.0>(h, gamma, beta, mean, variance)
    [act] r = Relu(n)
    [second] y = Conv(r, w2)
}
"""


@pytest.mark.parametrize("seed", range(3))
def test_the_recipe_for_weights_corrects_behind_folded_norms(seed: int) -> None:
    """Weights of one magnitude for each output of the first layer lie on its grid: the second errs alone.

    Sums of four standard normal inputs with signs have the mean 0 and the variance 4 that the norm states.
    The channels behind it depend on each other, so their errors may add up: each is at most half a step times
    a value whose deviation is below 2. A mean over n positions deviates by that over sqrt(n); 5 times that is
    not reached by chance.
    """
    rng = np.random.default_rng(seed)
    text = FOLDED
    for name, numbers in (
        ("SIGNS", rng.choice([-1, 1], 32)),
        ("GAMMA", rng.uniform(0.5, 2, 8)),
        ("BETA", rng.normal(size=8)),
        ("WEIGHTS", np.insert(rng.normal(size=(3, 7)), 7, 60, axis=1).reshape(-1)),
    ):
        text = text.replace(name, ", ".join(str(number) for number in numbers.astype(np.float32)))
    feeds = {"x": rng.normal(size=(4000, 4, 4, 4)).astype(np.float32)}

    def mean(pipeline: str) -> np.ndarray:
        module = parse(text)
        PassManager(parse_pipeline(pipeline), find_target("portable")).run(module)
        result: np.ndarray = run_model(module, feeds)["y"].mean(axis=(0, 2, 3))
        return result

    recipe = load_recipe("weight-only").pipeline
    correction = "correct-bias{method=assumed},"
    assert correction in recipe
    original = mean("infer-shapes")
    plain, corrected = (
        np.abs(mean(pipeline) - original).max() for pipeline in (recipe.replace(correction, ""), recipe)
    )
    tolerance = 5 * 2 * 8 * (60 / 127) / 2 / np.sqrt(4000 * 16)
    assert corrected < tolerance < plain / 2


TWO_AXES = """<ir_version: 10, opset_import: ["" : 21]>
main (float[N,2,4] x) => (float[N,2,4] y, float[N,2,2] z)
<float[2,2,1] w1 = {0.75, 0.5, 0.625, 0.375}, float[4,2] w2 = {0.75, 0.3, 0.5, 0.6, 0.1, 0.375, 0.2, 0.7},
 float[2] b1 = {1, 1}, float[2] b2 = {1, 1}>
{
    [conv] y = Conv(x, w1, b1)
    [product] p = MatMul(x, w2)
    [sum] z = Add(p, b2)
}
"""


def test_a_value_is_measured_along_each_axis_that_a_layer_reads() -> None:
    """The Conv's channels lie along axis -2 of ``x``, those of the MatMul along axis -1.

    Both corrections hold exactly up to float32 rounding of sums of 5 terms below 16: 6 * 16 * 2^-23 < 2e-5.
    """
    feeds = {"x": np.random.default_rng(0).normal(2, 1, (64, 2, 4)).astype(np.float32)}
    data = FeedsData([feeds])

    def means(pipeline: str) -> dict[str, np.ndarray]:
        ran = run_model(compiled(TWO_AXES, pipeline, data), feeds)
        return {"y": ran["y"].mean(axis=(0, 2)), "z": ran["z"].mean(axis=(0, 1))}

    original = means("infer-shapes")
    plain = means("infer-shapes, encode-weights{bits=7}, insert-qdq")
    corrected = means("infer-shapes, encode-weights{bits=7}, correct-bias, insert-qdq")
    for name, wanted in original.items():
        assert np.abs(plain[name] - wanted).max() > 1e-4
        np.testing.assert_allclose(corrected[name], wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("method", ["analytic", "empirical"])
def test_a_vector_has_no_means_to_correct_by(
    method: str, build: Callable[..., GraphModule], compiled: Callable[..., GraphModule]
) -> None:
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(32, 16)).astype(np.float32), "b": np.ones(16, np.float32)}
    module = build("main (float[32] x) => (float[16] y) { h = MatMul(x, w) y = Add(h, b) }", weights)
    pipeline = f"encode-weights, encode-activations, correct-bias{{method={method}}}"
    feeds = {"x": rng.normal(size=32).astype(np.float32)}
    assert [node.inputs[1].name for node in compiled(module, pipeline, feeds).graph] == ["w", "b"]
