"""Patches: what a convolution multiplies its weight with, beside a convolution that writes its window out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from onnxq.analysis.layers import linear_layers
from onnxq.calibration.collect import collect
from onnxq.ir.inference import infer_types
from onnxq.ir.module import GraphModule
from onnxq.passmanager import patches
from onnxq.passmanager.base import PassContext
from onnxq.rewrite.edit import Editor
from onnxq.runtime.session import open_session
from onnxq.target import find_target

IMAGE, SIGNAL = (3, 4, 11, 13), (3, 4, 9)
GEOMETRIES = {
    "plain": (IMAGE, (3, 3), ""),
    "padded": (IMAGE, (3, 2), ", pads = [1, 2, 0, 1], strides = [2, 1]"),
    "dilated": (IMAGE, (3, 3), ", pads = [1, 1, 1, 1], dilations = [2, 1]"),
    "same, upper": (IMAGE, (3, 3), ', auto_pad = "SAME_UPPER", strides = [2, 2]'),
    "same, lower": (IMAGE, (3, 4), ', auto_pad = "SAME_LOWER", strides = [2, 3]'),
    "valid": (IMAGE, (3, 3), ', auto_pad = "VALID"'),
    "of one place": (IMAGE, (1, 1), ", strides = [2, 2]"),
    "one axis": (SIGNAL, (3,), ", pads = [1, 1]"),
}


@dataclass(frozen=True)
class Once:
    """One batch, as data and as its samples."""

    feeds: Mapping[str, NDArray[Any]]
    rows: int

    def batches(self) -> Iterator["Once"]:
        yield self


def convolution(shape: tuple[int, ...], weight: NDArray[np.float32], geometry: str) -> onnx.ModelProto:
    lengths, free = ",".join(map(str, shape[1:])), ",".join("ABC"[: len(shape) - 1])
    proto: onnx.ModelProto = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]> main (float[N,{lengths}] x) => (float[N,{free}] y)
        {{ [layer] y = Conv <group = 1{geometry}> (x, w) }}"""
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return proto


@pytest.mark.parametrize("name", GEOMETRIES)
def test_products_of_patches_are_those_of_a_convolution_that_writes_them_out(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape, kernel, geometry = GEOMETRIES[name]
    rng = np.random.default_rng(0)
    x, channels, places = rng.normal(size=shape).astype(np.float32), shape[1], int(np.prod(kernel))
    weight = rng.normal(size=(5, channels, *kernel)).astype(np.float32)
    module = GraphModule(infer_types(ir.from_proto(convolution(shape, weight, geometry))))
    data = Once({"x": x}, len(x))
    context = PassContext(
        Editor(module),
        find_target("cpu"),
        rng,
        lambda measured, needs: collect(measured.model, needs, data).facts,
    )
    monkeypatch.setattr(patches, "PLACES", 1000)  # all of them
    (gram,) = patches.patch_grams(list(linear_layers(module)), module, context)
    single = np.eye(channels * places, dtype=np.float32).reshape(-1, channels, *kernel)
    written = open_session(convolution(shape, single, geometry)).run({"x": x})["y"]
    rows = np.moveaxis(written, 1, -1).reshape(-1, channels * places).astype(np.float64)
    # Each entry adds up the rows in float32, each product rounded to 2^-24 of its magnitude.
    bound = len(rows) * 2.0**-24 * (np.abs(rows).T @ np.abs(rows)) + 1e-6
    assert gram is not None
    assert (np.abs(gram - rows.T @ rows) <= bound).all()
