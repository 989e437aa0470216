"""What correct-clipping promises beyond its golden cases: exact in float, closer in integers, still fused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from onnxq.ir.module import GraphModule
from onnxq.ir.text import parse
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.target import find_target
from onnxq.testing.laws import FeedsData, rounding_bound, run_model

WIDTH = 32
PLAIN = "infer-shapes, encode-weights, sum-biases, encode-activations"
REALISE = "insert-qdq, fold-clips, fuse-integer-matmul, remove-dead"


def _module() -> GraphModule:
    rng = np.random.default_rng(0)
    weight = ", ".join(f"{number:.4f}" for number in rng.normal(size=WIDTH * 8))
    return parse(
        f"""<ir_version: 10, opset_import: ["" : 21]>
main (float[N,4,{WIDTH}] x) => (float[N,4,8] y)
<float[{WIDTH},8] w = {{{weight}}}, float[8] b = {{1, 2, 3, 4, 5, 6, 7, 8}}>
{{
    [product] h = MatMul(x, w)
    [bias] y = Add(h, b)
}}"""
    )


def _feeds(seed: int, size: float = 40.0) -> dict[str, np.ndarray]:
    """Return a batch in which two channels hold a few values ``size`` times as large as the others."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(16, 4, WIDTH)).astype(np.float32)
    x[..., 3] *= size * (rng.uniform(size=(16, 4)) < 0.1)
    x[..., 20] *= -size / 2 * (rng.uniform(size=(16, 4)) < 0.1)
    return {"x": x}


def _compiled(pipeline: str) -> GraphModule:
    module, data = _module(), FeedsData([_feeds(0)])
    PassManager(parse_pipeline(pipeline), find_target("cpu"), measure=data.measure).run(module)
    return module


def test_exact_in_float_far_beyond_what_was_measured() -> None:
    before, after = _module(), _compiled(f"{PLAIN}, correct-clipping{{channels=2}}")
    assert after.is_encoded(after.value("x_cut_1"))
    feeds = _feeds(1, size=4000.0)
    old, new = (run_model(module, feeds, inner=True) for module in (before, after))
    bound = rounding_bound([(before, {**feeds, **old}), (after, {**feeds, **new})])
    np.testing.assert_allclose(new["y"], old["y"], rtol=0, atol=bound)


@pytest.mark.usefixtures("kernels_of_the_processor")
def test_the_error_shrinks_with_the_step() -> None:
    feeds = _feeds(1)
    wanted = run_model(_module(), feeds)["y"]
    errors = [
        float(np.square(run_model(_compiled(f"{PLAIN}, {extra}{REALISE}"), feeds)["y"] - wanted).mean())
        for extra in ("", "correct-clipping{channels=2}, ")
    ]
    # The weights' own rounding stays; the range shrinks to about a tenth, so far more than half must go.
    assert errors[1] < errors[0] / 4


def test_the_product_and_its_bias_stay_in_the_integer_kernel() -> None:
    module = _compiled(f"{PLAIN}, correct-clipping{{channels=2}}, {REALISE}")
    operators = sorted(node.op_type for node in module.graph)
    assert operators == ["Add", "Clip", "Gather", "MatMul", "MatMulIntegerToFloat", "QuantizeLinear", "Sub"]


@pytest.mark.parametrize(
    ("option", "corrected"), [("gain=1000000", False), ("sites=y", False), ("gain=0", True)]
)
def test_options_choose_the_values(option: str, corrected: bool) -> None:
    module = _compiled(f"{PLAIN}, correct-clipping{{{option}}}")
    assert module.is_encoded(module.value("x")) != corrected


def test_a_product_that_reads_a_corrected_one_is_corrected_too(build: Callable[..., GraphModule]) -> None:
    """The correction of the first puts another value in the place of what the second reads."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(WIDTH, WIDTH)), "b": np.ones(WIDTH), "v": rng.normal(size=(WIDTH, 8))}
    layers = "p = MatMul(x, w) h = Add(p, b) y = MatMul(h, v)"
    text = f"main (float[N,4,{WIDTH}] x) => (float[N,4,8] y) {{ {layers} }}"
    before, after = (
        build(text, {name: array.astype(np.float32) for name, array in weights.items()}) for _ in range(2)
    )
    pipeline, data = f"{PLAIN}, correct-clipping{{channels=2, gain=0}}", FeedsData([_feeds(0)])
    PassManager(parse_pipeline(pipeline), find_target("cpu"), measure=data.measure).run(after)
    assert [one.value for one in after.named_decisions()] == ["h_cut_1", "v", "w", "x_cut_1"]
    feeds = _feeds(1, size=4000.0)
    old, new = (run_model(module, feeds, inner=True) for module in (before, after))
    bound = rounding_bound([(before, {**feeds, **old}), (after, {**feeds, **new})])
    np.testing.assert_allclose(new["y"], old["y"], rtol=0, atol=bound)
