"""Rounding the weights of convolutions: the patches that are measured, and what it brings."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from onnxq.analysis.layers import linear_layers
from onnxq.errors import CalibrationError
from onnxq.ir.module import GraphModule
from onnxq.passmanager.base import PassContext
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.patches import PLACES, patch_grams
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.rewrite.edit import Editor
from onnxq.target import find_target
from onnxq.testing.laws import FeedsData, run_model

Build = Callable[..., GraphModule]

# attributes, shape of the kernel, padding before and after, strides, dilations
GEOMETRIES = {
    "1 x 1": ("", (1, 1), ((0, 0), (0, 0)), (1, 1), (1, 1)),
    "plain": ("", (3, 2), ((0, 0), (0, 0)), (1, 1), (1, 1)),
    "padded": ("<pads = [1, 0, 2, 1]>", (3, 3), ((1, 2), (0, 1)), (1, 1), (1, 1)),
    "strided": ("<strides = [2, 3]>", (3, 2), ((0, 0), (0, 0)), (2, 3), (1, 1)),
    "dilated": ("<dilations = [2, 1]>", (2, 3), ((0, 0), (0, 0)), (1, 1), (2, 1)),
    "same": ('<auto_pad = "SAME_UPPER", strides = [2, 2]>', (3, 3), ((0, 1), (1, 1)), (2, 2), (1, 1)),
}
CHANNELS, HEIGHT, WIDTH = 3, 8, 7


def _patches(
    x: np.ndarray,
    kernel: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
) -> np.ndarray:
    """Return the windows of all images as rows, channel by channel."""
    padded = np.pad(x, ((0, 0), (0, 0), *pads))
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    windows = sliding_window_view(padded, reach, axis=(2, 3))[:, :, :: strides[0], :: strides[1]]
    windows = windows[..., :: dilations[0], :: dilations[1]]
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, x.shape[1] * kernel[0] * kernel[1])


def _gram(module: GraphModule, x: np.ndarray) -> np.ndarray:
    ctx = PassContext(
        Editor(module), find_target("cpu"), np.random.default_rng(0), FeedsData([{"x": x}]).measure
    )
    (gram,) = patch_grams(list(linear_layers(module)), module, ctx)
    assert gram is not None
    return gram


@pytest.mark.parametrize("kind", GEOMETRIES)
def test_patches_are_those_that_the_layer_reads(
    kind: str, build: Build, compiled: Callable[..., GraphModule]
) -> None:
    attributes, kernel, pads, strides, dilations = GEOMETRIES[kind]
    rng = np.random.default_rng(0)
    # Whole numbers of at most 3: their products, and up to 5 * 56 of them in a sum, are exact in float32.
    x = rng.integers(-3, 4, (5, CHANNELS, HEIGHT, WIDTH)).astype(np.float32)
    weight = rng.integers(-3, 4, (4, CHANNELS, *kernel)).astype(np.float32)
    read = f"float[N,{CHANNELS},{HEIGHT},{WIDTH}] x"
    text = f"main ({read}) => (float[N,4,H,W] y) {{ y = Conv{attributes}(x, w) }}"
    module = compiled(build(text, {"w": weight}), "remove-dead")
    rows = _patches(x, kernel, pads, strides, dilations)
    outputs = np.moveaxis(run_model(module, {"x": x})["y"], 1, -1).reshape(-1, 4)
    np.testing.assert_array_equal(rows @ weight.reshape(4, -1).T, outputs, "the rows are those of the layer")
    np.testing.assert_array_equal(_gram(module, x), rows.T @ rows)


def test_large_images_are_looked_at_in_places(build: Build, compiled: Callable[..., GraphModule]) -> None:
    size = 3 * PLACES + 2
    x = np.random.default_rng(0).integers(-3, 4, (2, 1, size, size)).astype(np.float32)
    text = f"main (float[N,1,{size},{size}] x) => (float[N,2,{size - 2},{size - 2}] y) {{ y = Conv(x, w) }}"
    module = compiled(build(text, {"w": np.ones((2, 1, 3, 3), np.float32)}), "remove-dead")
    rows = _patches(x, (3, 3), ((0, 0), (0, 0)), (3, 3), (1, 1))
    assert len(rows) == 2 * PLACES**2
    np.testing.assert_array_equal(_gram(module, x), rows.T @ rows)


@pytest.mark.parametrize("method", ["gptq", "adaround"])
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("seed", range(2))
def test_outputs_err_less_on_other_images(
    method: str, granularity: str, seed: int, build: Build, compiled: Callable[..., GraphModule]
) -> None:
    """Images are smooth, as the sums of their own rows and columns are: neighbours tell of each other."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(32, 4, 12, 12)).cumsum(axis=2).cumsum(axis=3).astype(np.float32)
    weights = {"w": rng.normal(size=(8, 4, 3, 3)).astype(np.float32)}
    text = "main (float[N,4,12,12] x) => (float[N,8,12,12] y) { y = Conv<pads = [1, 1, 1, 1]>(x, w) }"
    other = {"x": x[16:]}
    wanted = run_model(build(text, weights), other)["y"]

    def error(rounding: str) -> float:
        pipeline = f"encode-weights{{granularity={granularity}}}, {rounding} insert-qdq"
        module = compiled(build(text, weights), pipeline, {"x": x[:16]})
        return float(np.square(run_model(module, other)["y"] - wanted).sum())

    assert error(f"round-weights{{method={method}}},") < error("") / 2


@pytest.mark.parametrize("method", ["gptq", "adaround"])
def test_depthwise_outputs_err_less_on_other_images(method: str, build: Build) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 4, 12, 12)).cumsum(axis=2).cumsum(axis=3).astype(np.float32)
    weights = {"w": rng.normal(size=(8, 1, 3, 3)).astype(np.float32)}
    attributes = "<pads = [1, 1, 1, 1], group = 4, strides = [2, 1]>"
    text = f"main (float[N,4,12,12] x) => (float[N,8,6,12] y) {{ y = Conv{attributes}(x, w) }}"
    wanted = run_model(build(text, weights), {"x": x[16:]})["y"]

    def error(rounding: str) -> float:
        feeds, module = ({"x": x[:16]},), build(text, weights)
        passes = parse_pipeline(f"infer-shapes, encode-weights{{bits=4}}, {rounding} insert-qdq")
        measure = FeedsData(feeds).measure
        PassManager(passes, find_target("cpu"), measure=measure).run(module)
        return float(np.square(run_model(module, {"x": x[16:]})["y"] - wanted).sum())

    assert error(f"round-weights{{method={method}}},") < error("") / 2


def test_without_data_it_says_so(build: Build, compiled: Callable[..., GraphModule]) -> None:
    text = "main (float[N,2,4,4] x) => (float[N,3,3,3] y) { y = Conv(x, w) }"
    weights = {"w": np.ones((3, 2, 2, 2), np.float32)}
    with pytest.raises(CalibrationError, match="what its convolutions read") as caught:
        compiled(build(text, weights), "encode-weights, round-weights")
    assert caught.value.hint == "give calibration data"
    assert caught.value.where == "layer 'y'"
