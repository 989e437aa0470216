"""Folding constants into convolutions computes the same function up to float32 rounding."""

from collections.abc import Callable

import numpy as np
import pytest

from onnxq.ir.module import GraphModule
from onnxq.testing.laws import run_model

pytest.importorskip("onnxruntime", reason="it runs the models")

Build = Callable[..., GraphModule]
Compile = Callable[..., GraphModule]

PLAIN, PADDED = "Conv(t, w)", "Conv <pads: ints = [1, 1, 1, 1]> (t, w)"
LAYERS = {
    "behind a convolution": "h = Conv(x, v) s = Mul(h, c) z = Add(s, d)",
    "by channel": "h = Conv(x, v) s = Mul(e, h) z = Sub(s, e)",
    "behind a grouped one": "h = Conv <group: int = 2> (x, g, b) s = Div(h, e) z = Add(e, s)",
    "by channel, behind a transposed one": "h = ConvTranspose(x, w) s = Mul(h, e) z = Add(s, e)",
    "behind transposed groups": "h = ConvTranspose <group: int = 2> (x, g, b) s = Mul(h, c) z = Sub(s, d)",
    "before a convolution": f"h = Abs(x) s = Mul(h, c) t = Add(s, d) z = {PLAIN}",
    "before one that pads": f"h = Abs(x) s = Mul(h, c) t = Add(s, d) z = {PADDED}",
    "several before two": (
        f"h = Abs(x) p = Div(h, c) s = Mul(p, d) t = Sub(s, c) y = {PLAIN} u = {PLAIN} z = Sum(y, u)"
    ),
    "a HardSwish written out": (
        "h = Conv(x, v) a = Add(h, three) l = Clip(a, zero, six) m = Mul(h, l) s = Div(m, six) "
        f"t = Mul(s, c) z = {PADDED}"
    ),
}
LEFT = {
    "before one that pads": ["Abs", "Add", "Conv"],
    "a HardSwish written out": ["Conv", "Add", "Clip", "Mul", "Conv"],
}
SAFETY = 4


def _weights(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {
        "v": (4, 4, 1, 1),
        "w": (4, 4, 3, 3),
        "g": (4, 2, 1, 1),
        "e": (4, 1, 1),
        "b": (4,),
        "c": (1,),
        "d": (),
    }
    made = {name: rng.normal(size=shape) + 2 * (name in "ecd") for name, shape in shapes.items()}
    return {name: np.float32(array) for name, array in (made | {"zero": 0, "three": 3, "six": 6}).items()}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", LAYERS)
def test_the_outputs_differ_by_rounding(name: str, seed: int, build: Build, compiled: Compile) -> None:
    x = np.random.default_rng(seed + 10).normal(size=(2, 4, 5, 5)).astype(np.float32)
    weights, body = _weights(seed), LAYERS[name]
    reads = {
        key: array
        for key, array in weights.items()
        if f" {key})" in body or f" {key}," in body or f"({key}," in body
    }
    module = build(f"main (float[N,4,5,5] x) => (float[N,C,H,W] z) {{ {body} }}", reads)
    seen = run_model(module, {"x": x}, inner=True)
    compiled(module, "fold-scalars,remove-dead")
    # Each of at most 40 terms of a sum, and each of at most 8 operators, rounds by eps of what it adds up.
    largest = max(float(np.abs(value).max()) for value in seen.values()) * max(
        1, *(np.abs(w).max() for w in weights.values())
    )
    error = np.abs(run_model(module, {"x": x})["z"] - seen["z"]).max()
    assert error <= SAFETY * (40 + 8) * np.finfo(np.float32).eps * largest
    if name in LEFT:
        assert [node.op_type for node in module.graph] == LEFT[name]


@pytest.mark.parametrize("order", ["Add(h, b)", "Add(b, h)"])
@pytest.mark.parametrize("scale", ["Mul(t, c)", "Mul(c, t)", "Div(t, c)"])
def test_a_layer_scale_goes_into_the_product_before(
    order: str, scale: str, build: Build, compiled: Compile
) -> None:
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(size=(16, 8)).astype(np.float32),
        "b": rng.normal(size=8).astype(np.float32),
        "c": rng.uniform(0.5, 2, 8).astype(np.float32),
    }
    text = f"main (float[N,4,16] x) => (float[N,4,8] z) {{ h = MatMul(x, w) t = {order} z = {scale} }}"
    module = build(text, weights)
    x = rng.normal(size=(3, 4, 16)).astype(np.float32)
    seen = run_model(module, {"x": x}, inner=True)
    compiled(module, "fold-scalars,remove-dead")
    assert [node.op_type for node in module.graph] == ["MatMul", "Add"]
    # 16 products are added up, with a bias and a factor of at most 2: each rounds by eps of the largest.
    error = np.abs(run_model(module, {"x": x})["z"] - seen["z"]).max()
    assert error <= SAFETY * (16 + 2) * np.finfo(np.float32).eps * 2 * np.abs(seen["t"]).max()


def test_what_float32_does_not_hold_is_left_alone(build: Build, compiled: Compile) -> None:
    weights = {
        "w": np.full((1, 1, 1, 1), 1e30, np.float32),
        "c": np.float32(1e30),
        "zero": np.float32(0),
        "one": np.float32(1),
    }
    nodes = "h = Conv(x, w) y = Mul(h, c) a = Relu(x) s = Mul(a, zero) t = Add(s, one) z = Conv(t, w)"
    body = f"main (float[N,1,2,2] x) => (float[N,1,2,2] y, float[N,1,2,2] z) {{ {nodes} }}"
    module = compiled(build(body, weights), "fold-scalars,remove-dead")
    assert [node.op_type for node in module.graph] == ["Conv", "Mul", "Relu", "Conv"]
