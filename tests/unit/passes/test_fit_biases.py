"""Dead channels in every recipe: weights next to nothing, and a bias that counts."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from onnxq.ir.module import GraphModule, array_of
from onnxq.recipe import Recipe, shipped_recipes
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session

# input, operator, shape of the weight, channel axis, inputs of one output
LAYERS = {
    "conv": ("float[N,4,5,5] x", "Conv <pads = [1, 1, 1, 1]> (x, w, b)", (6, 4, 3, 3), 0, 36),
    "depthwise": ("float[N,6,5,5] x", "Conv <group = 6> (x, w, b)", (6, 1, 3, 3), 0, 9),
    "transposed": ("float[N,4,5,5] x", "ConvTranspose(x, w, b)", (4, 6, 3, 3), 1, 36),
    "gemm": ("float[N,4] x", "Gemm(x, w, b)", (4, 6), 1, 4),
}
DEAD = {1: 7.0, 4: -5.0}
RECIPES = [recipe for recipe in shipped_recipes() if "fit-biases" in recipe.pipeline]
CASES = [
    pytest.param(recipe, kind, id=f"{recipe.name}-{kind}")
    for recipe in RECIPES
    for kind in LAYERS
    if kind != "transposed" or recipe.name in ("all-tensors", "portable", "tensorrt")
]


@pytest.mark.parametrize(("recipe", "kind"), CASES)
def test_a_dead_channel_is_its_bias_in_an_integer_layer(
    recipe: Recipe, kind: str, build: Callable[..., GraphModule], compiled: Callable[..., GraphModule]
) -> None:
    """Run with default optimisations, where ONNX Runtime quantizes on its own what it can.

    Of a dead channel's output ``b``, int32 holds all but ``K * 2**-22 * |b|`` (see the pass), and the grid of
    the output, where it has one, all but a step, which is at most 1/127 of the largest output; in float8
    1/16.
    """
    read, node, shape, axis, inputs = LAYERS[kind]
    rng = np.random.default_rng(0)
    weight, bias = np.moveaxis(rng.normal(size=shape), axis, 0), rng.uniform(-1, 1, 6)
    weight[list(DEAD)] *= 1e-9
    bias[list(DEAD)] = list(DEAD.values())
    weights = {"w": np.moveaxis(weight, 0, axis).astype(np.float32), "b": bias.astype(np.float32)}
    written = f"float[{','.join('NCHW'[: len(shape)])}] y"
    module = build(f"main ({read}) => ({written}) {{ y = {node} }}", weights)
    sizes = [size if isinstance(size, int) else 8 for size in module.graph.inputs[0].shape or ()]
    feeds = {"x": rng.normal(size=sizes).astype(np.float32)}
    wanted = open_session(ir.to_proto(module.model), Run(threads=1)).run(feeds)["y"]
    compiled(module, recipe.pipeline, feeds, target=recipe.target)
    found = open_session(ir.to_proto(module.model), Run(threads=1)).run(feeds)["y"]
    stored = [array_of(value) for value in module.graph.initializers.values()]
    assert any(array.dtype.itemsize == 1 and array.size == weight.size for array in stored)
    step = np.abs(wanted).max() / (16 if "float8" in recipe.pipeline else 127)
    for channel, value in DEAD.items():
        error = np.abs(found[:, channel] - wanted[:, channel]).max()
        assert error <= step + inputs * 2.0**-22 * abs(value)
