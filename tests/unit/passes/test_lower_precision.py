"""float16 graphs: where measured ranges keep float, and what a mask does to rows that it hides whole."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from onnxq.ir.module import GraphModule
from onnxq.ir.rounding import spell_out_rounding
from onnxq.testing.laws import run_model

pytest.importorskip("onnxruntime", reason="the graphs are run")

Build = Callable[..., GraphModule]
Compile = Callable[..., GraphModule]
RNG = np.random.default_rng(0)
HALF, FLOAT = ir.DataType.FLOAT16, ir.DataType.FLOAT

RESIDUAL = (
    "main (float[N,16] x) => (float[N,16] y) { h = MatMul(x, w) r = Add(h, x) n = LayerNormalization(r, g)"
    " y = MatMul(n, v) }"
)


def weights(scale: float) -> dict[str, np.ndarray]:
    square = RNG.normal(size=(2, 16, 16)).astype(np.float32)
    return {"w": square[0] * np.float32(scale), "v": square[1], "g": np.ones(16, np.float32)}


def run_rounded(module: GraphModule, feeds: dict[str, np.ndarray]) -> np.ndarray:
    return run_model(GraphModule(spell_out_rounding(module.model)), feeds)["y"]


def dtypes(module: GraphModule, *names: str) -> list[ir.DataType | None]:
    return [value.dtype for name in names if (value := module.value(name)) is not None]


def test_a_residual_that_overflows_stays_in_float(build: Build, compiled: Compile) -> None:
    module = build(RESIDUAL, weights(1e4))
    x = RNG.normal(size=(8, 16)).astype(np.float32)
    before = run_model(module, {"x": x})["y"]
    compiled(module, "lower-precision{ranges=true},remove-dead", {"x": x}, target="cuda")
    assert dtypes(module, "h", "r", "n") == [FLOAT, FLOAT, FLOAT]
    assert dtypes(module, "y_inner") == [HALF]
    after = run_rounded(module, {"x": x})
    # Two operands and the result are rounded by half an eps each; the norm's values are about 1.
    bound = 2 * np.finfo(np.float16).eps * (np.abs(before) + 16 * np.abs(weights(1)["v"]).max() * 4)
    assert (np.abs(after - before) <= bound).all()


def test_without_ranges_it_would_overflow(build: Build, compiled: Compile) -> None:
    module = build(RESIDUAL, weights(1e4))
    x = RNG.normal(size=(8, 16)).astype(np.float32)
    compiled(module, "lower-precision,remove-dead", target="cuda")
    assert dtypes(module, "h", "r", "n") == [HALF, HALF, HALF]
    assert not np.isfinite(run_rounded(module, {"x": x})).all()


def test_ranges_that_fit_change_nothing(build: Build, compiled: Compile) -> None:
    module = build(RESIDUAL, weights(1))
    x = RNG.normal(size=(8, 16)).astype(np.float32)
    compiled(module, "lower-precision{ranges=true},remove-dead", {"x": x}, target="cuda")
    assert dtypes(module, "h", "r", "n", "y_inner") == [HALF] * 4


@pytest.mark.parametrize("least", [np.finfo(np.float32).min, -np.inf, -1e4])
def test_a_masked_row_stays_finite(least: float, build: Build, compiled: Compile) -> None:
    body = """main (float[N,4,4] x, int64[N,1,4] m) => (float[N,4,4] y) {
        s = MatMul(x, w) f = Cast <to: int = 9> (m) k = Where(f, zero, least) t = Add(s, k)
        y = Softmax <axis: int = -1> (t) }"""
    constants = {"zero": np.float32(0), "least": np.float32(least)}
    module = build(body, {"w": RNG.normal(size=(4, 4)).astype(np.float32), **constants})
    x = RNG.normal(size=(2, 4, 4)).astype(np.float32)
    mask = np.array([[[1, 1, 0, 0]], [[0, 0, 0, 0]]])
    before = run_model(module, {"x": x, "m": mask})["y"]
    compiled(module, "lower-precision,remove-dead", target="cuda")
    after = run_rounded(module, {"x": x, "m": mask})
    assert np.isfinite(after).all()
    assert (after[0, :, 2:] == 0).all()
    # Scores of up to 8 are rounded twice by half an eps, which moves a share by as much of itself.
    np.testing.assert_allclose(after[0], before[0], atol=8 * np.finfo(np.float16).eps)


def test_bfloat16_keeps_the_range_of_float32(build: Build, compiled: Compile) -> None:
    module = build(RESIDUAL, weights(1e4))
    x = RNG.normal(size=(8, 16)).astype(np.float32)
    before = run_model(module, {"x": x})["y"]
    compiled(module, "lower-precision{dtype=bfloat16},remove-dead", target="cuda")
    assert dtypes(module, "h", "r", "n", "y_inner") == [ir.DataType.BFLOAT16] * 4
    after = run_rounded(module, {"x": x})
    # Five roundings of half an eps each, on values that the norm brings to about 4 at most, in sums of 16.
    bound = 5 / 2 * 2**-7 * 16 * 4 * np.abs(weights(1)["v"]).max()
    assert (np.abs(after - before) <= bound).all()
