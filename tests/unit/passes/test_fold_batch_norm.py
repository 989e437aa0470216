"""Folding a BatchNormalization computes the same function, rounded once."""

from collections.abc import Callable

import numpy as np
import onnx
import onnx.numpy_helper
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from onnxq.ir.module import GraphModule

Array = NDArray[np.float64]

LAYERS = {
    "conv": ("float[N,4,6,6] x", "Conv <pads: ints = [1, 1, 1, 1]> (x, w, b)", (3, 4, 3, 3)),
    "grouped conv": ("float[N,4,6,6] x", "Conv <group: int = 2> (x, w, b)", (6, 2, 3, 3)),
    "conv 1-D": ("float[N,4,9] x", "Conv <strides: ints = [2]> (x, w, b)", (3, 4, 3)),
    "conv transpose": ("float[N,4,3,3] x", "ConvTranspose <strides: ints = [2, 2]> (x, w, b)", (4, 3, 2, 2)),
    "gemm": ("float[N,4] x", "Gemm(x, w, b)", (4, 3)),
    "gemm transB": ("float[N,4] x", "Gemm <transB: int = 1> (x, w, b)", (3, 4)),
}


def evaluate(module: GraphModule, x: Array, *, magnitudes: bool = False) -> Array:
    """Run in float64; with ``magnitudes``, on the absolute values of the weights."""
    proto = ir.to_proto(module.model)
    for tensor in proto.graph.initializer:
        wide = onnx.numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.abs(wide) if magnitudes else wide, tensor.name))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    (y,) = ReferenceEvaluator(proto).run(None, {"x": np.abs(x) if magnitudes else x})
    return np.asarray(y)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("layer", LAYERS)
def test_the_folded_layer_equals_the_float64_reference(
    layer: str,
    seed: int,
    build: Callable[..., GraphModule],
    compiled: Callable[..., GraphModule],
) -> None:
    rng = np.random.default_rng(seed)
    declared, operator, shape = LAYERS[layer]
    channels = 6 if layer == "grouped conv" else 3
    per_channel = {name: rng.normal(size=channels) for name in ("b", "gamma", "beta", "mean")}
    weights = {"w": rng.normal(size=shape), **per_channel, "variance": rng.uniform(1e-3, 9, channels)}
    norm = "BatchNormalization <epsilon: float = 0.001> (h, gamma, beta, mean, variance)"
    module = build(
        f"main ({declared}) => (float y) {{ [layer] h = {operator} [norm] y = {norm} }}".replace(
            "float y", f"float[{','.join('ABCD'[: declared.count(',') + 1])}] y"
        ),
        {name: array.astype(np.float32) for name, array in weights.items()},
    )
    x = rng.normal(size=(2, *(int(size) for size in declared[declared.index(",") + 1 : -3].split(","))))
    expected = evaluate(module, x)
    folded = compiled(module, "fold-batch-norm,remove-dead")
    assert [node.name for node in folded.graph] == ["layer"]
    # Each weight and bias is rounded to float32 once, by at most half of 2**-23 of itself; the
    # reference's own float64 rounding is 2**29 times smaller.
    bound = 2.0**-24 * (1 + 1e-6) * evaluate(folded, x, magnitudes=True)
    assert (np.abs(evaluate(folded, x) - expected) <= bound).all()
