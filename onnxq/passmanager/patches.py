"""What a convolution multiplies its weight with: patches of its input, measured by the graph itself.

A Conv is a product of matrices whose left one has a row for each place of the output: the window of the
input that lies there, flattened. A depthwise Conv whose kernels hold a single one each writes these rows out
(im2col), with the geometry of the layer and its padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.analysis.layers import Layer
from onnxq.errors import CalibrationError
from onnxq.ir.module import GraphModule, attribute, name_of
from onnxq.passmanager.base import PassContext
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.quant.facts import Need
from onnxq.quant.statistics import Gram
from onnxq.rewrite.edit import Editor

PLACES = 8
"""Along each axis, so many places of the output are looked at where it has more, and fewer than twice as
many: neighbours tell little new, and all patches of a large image would take many times its memory."""

MOST_PRODUCTS = 1 << 25
"""The elements of all matrices that one run over the data adds up: 256 MB in float64."""

GRAM = frozenset({Gram})
GEOMETRY = ("auto_pad", "dilations", "pads")


def patch_size(layer: Layer) -> int:
    """Return how many numbers of its input one output of a Conv reads."""
    return prod(_ints(layer.weight)[1:])


def patch_grams(
    layers: Sequence[Layer], module: GraphModule, ctx: PassContext
) -> Iterator[NDArray[np.float32] | None]:
    """Yield the Gram matrix of the patches of each Conv, channel by channel, as its weight is laid out.

    The data is run as often as memory asks for: once, unless the layers are many or large.

    Args:
        layers: Convs whose channels are not in groups.
        module: The graph; it stays as it is.
        ctx: Measures.

    Raises:
        CalibrationError: There is no data.

    """
    for run in _runs(layers):
        yield from _measured(run, module, ctx)


def _runs(layers: Sequence[Layer]) -> Iterator[list[Layer]]:
    run: list[Layer] = []
    for layer in layers:
        if run and sum(patch_size(one) ** 2 for one in (*run, layer)) > MOST_PRODUCTS:
            yield run
            run = []
        run.append(layer)
    if run:
        yield run


def _measured(
    layers: Sequence[Layer], module: GraphModule, ctx: PassContext
) -> list[NDArray[np.float32] | None]:
    if ctx.measure is None:
        raise CalibrationError(
            "what its convolutions read has to be measured, and there is no data",
            where=f"layer {layers[0].node.name!r}",
            hint="give calibration data",
        )
    copy = module.undecided()
    inner = PassContext(Editor(copy), ctx.target, ctx.rng)
    nodes = {node.name: node for node in copy.graph}
    probes = [_patches(nodes[layer.node.name], layer, inner.edit) for layer in layers]
    inner.edit.set_outputs(probes, why="they alone are measured")
    for pass_ in parse_pipeline("remove-dead"):
        pass_.run(copy, inner)
    needs = [Need(name_of(p), GRAM, layer.output_axis) for p, layer in zip(probes, layers, strict=True)]
    found = ctx.measure(copy, needs)
    grams = [found[need.value].get(Gram, need.axis) for need in needs]
    return [None if gram is None else gram.values for gram in grams]


def _patches(node: ir.Node, layer: Layer, edit: Editor) -> ir.Value:
    """Write the patches of ``node`` out, channel by channel, (N, C * kernel, ...)."""
    channels, kernel = _ints(layer.weight)[1], _ints(layer.weight)[2:]
    why = "its input is measured as it is multiplied"
    ones = edit.constant(f"{layer.output.name}_window", _windows(channels, kernel), why=why)
    geometry = {name: node.attributes[name].value for name in GEOMETRY if name in node.attributes}
    op = edit.at(node, why=why)
    name, strides = f"{layer.output.name}_patches", _strides(layer)
    return op.Conv(node.inputs[0], ones, **geometry, group=channels, strides=strides, name=name)


def _windows(channels: int, kernel: Sequence[int]) -> NDArray[np.float32]:
    """Return a kernel for each channel and place of the window, one there and zero elsewhere."""
    places = np.eye(prod(kernel), dtype=np.float32).reshape(-1, 1, *kernel)
    return np.tile(places, (channels, *[1] * (places.ndim - 1)))


def _strides(layer: Layer) -> list[int]:
    """Return the layer's strides, times as much as leaves about ``PLACES`` of a known size."""
    own = attribute(layer.node, "strides", [1] * (len(_ints(layer.weight)) - 2))
    shape = layer.output.shape
    sizes = [None] * len(own) if shape is None else list(shape)[2:]
    return [
        step * max(1, size // PLACES) if isinstance(size, int) else step
        for step, size in zip(own, sizes, strict=True)
    ]


def _ints(value: ir.Value) -> list[int]:
    return [] if value.shape is None else [int(length) for length in value.shape.numpy()]
