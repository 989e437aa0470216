"""What encode-weights decides and insert-qdq stores, for every linear operator."""

from collections.abc import Callable

import numpy as np
import pytest

from onnxq.ir.module import GraphModule, array_of
from onnxq.testing.laws import run_model

# input, operator, shape of the weight, channel axis
LAYERS = {
    "matmul": ("float[N,4] x", "MatMul(x, w)", (4, 3), 1),
    "gemm": ("float[N,4] x", "Gemm(x, w)", (4, 3), 1),
    "gemm transB": ("float[N,4] x", "Gemm <transB: int = 1> (x, w)", (3, 4), 0),
    "conv": ("float[N,4,6,6] x", "Conv(x, w)", (3, 4, 3, 3), 0),
    "conv 1-D": ("float[N,4,6] x", "Conv(x, w)", (3, 4, 3), 0),
    "depthwise conv": ("float[N,3,6,6] x", "Conv <group: int = 3> (x, w)", (3, 1, 3, 3), 0),
    "conv transpose": ("float[N,4,6,6] x", "ConvTranspose(x, w)", (4, 3, 2, 2), 1),
}


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("seed", range(2))
def test_a_stored_weight_is_within_half_a_step_and_uses_the_whole_grid(
    layer: str,
    granularity: str,
    seed: int,
    build: Callable[..., GraphModule],
    compiled: Callable[..., GraphModule],
) -> None:
    rng = np.random.default_rng(seed)
    declared, operator, shape, axis = LAYERS[layer]
    sizes = np.moveaxis(rng.normal(size=shape), axis, -1) * rng.uniform(1e-3, 1e3, shape[axis])
    weight = np.moveaxis(sizes, -1, axis).astype(np.float32)
    output = f"float[{','.join('ABCD'[: declared.count(',') + 1])}] y"
    module = build(f"main ({declared}) => ({output}) {{ y = {operator} }}", {"w": weight})
    pipeline = f"encode-weights{{granularity={granularity}}},insert-qdq,remove-dead"
    stored = compiled(module, pipeline, target="portable").graph.initializers
    integers, scale = array_of(stored["w_q"]).astype(np.float64), array_of(stored["w_scale"])
    assert array_of(stored["w_q"]).dtype == np.int8
    assert not array_of(stored["w_zero_point"]).any()

    others = tuple(a for a in range(weight.ndim) if a != axis) if granularity == "channel" else None
    assert scale.shape == ((shape[axis],) if granularity == "channel" else ())
    # The scale is a quotient rounded to float32: by at most 2**-24 of itself.
    np.testing.assert_allclose(scale, np.abs(weight).max(axis=others) / 127.0, rtol=2**-24)
    # So the largest magnitude of each channel is 127 steps, and -128 stays unused.
    assert (np.abs(integers).max(axis=others) == 127).all()

    step = np.float64(scale)
    spread = step.reshape([-1 if a == axis else 1 for a in range(weight.ndim)]) if step.ndim else step
    # Half a step, and what dividing by the scale in float32 can err in 127 steps.
    assert (np.abs(integers * spread - weight) <= spread * (0.5 + 127 * 2.0**-24)).all()


def test_seven_bits_keep_two_products_within_sixteen(
    build: Callable[..., GraphModule], compiled: Callable[..., GraphModule]
) -> None:
    weight = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    module = build("main (float[N,16] x) => (float[N,8] y) { y = MatMul(x, w) }", {"w": weight})
    stored = compiled(module, "encode-weights{bits=7},insert-qdq,remove-dead").graph.initializers
    largest = int(np.abs(array_of(stored["w_q"]).astype(int)).max())
    assert largest == 63
    assert 2 * 255 * largest <= np.iinfo(np.int16).max


def test_each_matrix_of_a_weight_keeps_its_bits(
    build: Callable[..., GraphModule], compiled: Callable[..., GraphModule]
) -> None:
    """Experts that are 300 times smaller than others: one scale for all would leave them nothing."""
    rng = np.random.default_rng(0)
    weight = (rng.normal(size=(4, 32, 8)) * np.logspace(-2.5, 0, 4)[:, None, None]).astype(np.float32)
    module = build("main (float[N,1,5,32] x) => (float[N,4,5,8] y) { y = MatMul(x, w) }", {"w": weight})
    x = rng.normal(size=(3, 1, 5, 32)).astype(np.float32)
    pipeline = "normalize-matrices, encode-weights, insert-qdq, remove-dead"
    found = run_model(compiled(module, pipeline, target="portable"), {"x": x})["y"]
    wanted = x.astype(np.float64) @ weight
    # Each weight is off by half a step of its own column at most, and float32 rounds 32 terms.
    steps = np.abs(weight).max(axis=1, keepdims=True) / 127
    bound = np.abs(x).sum(axis=-1, keepdims=True) * (steps / 2 * (1 + 1e-4))
    assert (np.abs(found - wanted) <= bound).all()


COUNT = 100_000
"""2 ** 31 / (255 * 127) is about 66,000 products; of so many with 7 bits, half of int32 is full."""


@pytest.mark.parametrize(
    ("pipeline", "rest", "fits"),
    [
        ("encode-weights", 1.0, False),
        ("encode-weights", 0.25, True),  # beside one large weight, the others take a quarter of the grid
        ("split-linear", 1.0, False),
        ("split-linear{mode=branches, bits=8}", 1.0, False),
    ],
)
@pytest.mark.parametrize("layer", ["MatMul", "Conv"])
def test_a_sum_that_int32_does_not_hold_stays_in_float(
    pipeline: str,
    rest: float,
    fits: bool,
    layer: str,
    build: Callable[..., GraphModule],
    compiled: Callable[..., GraphModule],
) -> None:
    weight = np.full(COUNT, rest, np.float32)
    weight[0] = 1.0
    end = [1] if layer == "Conv" else []
    shape, declared = ((1, COUNT, 1), f"N,{COUNT},1") if end else ((COUNT, 1), f"N,{COUNT}")
    text = f"main (float[{declared}] x) => (float[N,1{',1' * len(end)}] y) {{ y = {layer}(x, w) }}"
    feeds = {"x": np.ones((1, COUNT, *end), np.float32)}
    module = build(text, {"w": weight.reshape(shape)})
    found = compiled(module, f"{pipeline}, encode-activations, insert-qdq, remove-dead", feeds)
    assert any(array_of(value).dtype == np.int8 for value in found.graph.initializers.values()) == fits
    # Half a step of the input's grid, 1 / 255, and of the weights', in each of so many products of at most 1;
    # and half a step of the output's.
    bound = COUNT * (0.5 / 255 + 0.5 / 63 + 0.5 / 255)
    np.testing.assert_allclose(run_model(found, feeds)["y"].item(), weight.sum(), rtol=1e-4, atol=bound)


def test_weights_alone_add_up_in_float(
    build: Callable[..., GraphModule], compiled: Callable[..., GraphModule]
) -> None:
    module = build(
        f"main (float[N,{COUNT}] x) => (float[N,1] y) {{ y = MatMul(x, w) }}",
        {"w": np.ones((COUNT, 1), np.float32)},
    )
    assert "w_q" in compiled(module, "encode-weights, insert-qdq", target="portable").graph.initializers


@pytest.mark.parametrize("bits", range(2, 8))
def test_few_bits_are_levels_of_eight(
    bits: int, build: Callable[..., GraphModule], compiled: Callable[..., GraphModule]
) -> None:
    weight = np.random.default_rng(bits).normal(size=(64, 8)).astype(np.float32)
    module = build("main (float[N,64] x) => (float[N,8] y) { y = MatMul(x, w) }", {"w": weight})
    stored = compiled(module, f"encode-weights{{bits={bits}}},insert-qdq,remove-dead").graph.initializers
    assert array_of(stored["w_q"]).dtype == np.int8
    assert (np.abs(array_of(stored["w_q"]).astype(int)).max(axis=0) == 2 ** (bits - 1) - 1).all()
