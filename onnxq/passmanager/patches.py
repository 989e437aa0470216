"""What a convolution multiplies its weight with: patches of its input, measured by the graph itself.

A Conv is a product of matrices whose left one has a row for each place of the output: the window of the
input that lies there, flattened (im2col). Another Conv writes these rows out: each of its outputs takes one
place of the window of one channel.
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
from onnxq.quant.facts import Facts, Need
from onnxq.quant.statistics import Gram, Mean
from onnxq.rewrite.edit import Editor

PLACES = 8
"""Along each axis, so many places of the output are looked at where it has more, and fewer than twice as
many: neighbours tell little new, and all patches of a large image would take many times its memory. Of
channels in groups it is at most so many: their matrices are small, and their patches as large as any."""

MOST_PRODUCTS = 1 << 25
"""The elements of all matrices that one run over the data adds up: 256 MB in float64."""

GRAM, MEAN = frozenset({Gram}), frozenset({Mean})


def patch_size(layer: Layer) -> int:
    """Return how many numbers of its input one output of a Conv reads."""
    return prod(_ints(layer.weight)[1:])


def _groups(layer: Layer) -> int:
    return int(attribute(layer.node, "group", 1))


def patch_grams(
    layers: Sequence[Layer], module: GraphModule, ctx: PassContext
) -> Iterator[NDArray[np.float32] | None]:
    """Yield the Gram matrix of the patches of each Conv, channel by channel, as its weight is laid out.

    Of channels in groups it is one for each group, (G, C, C), and the mean over the samples, not the sum. The
    data is run as often as memory asks for: once, unless the layers are many or large.

    Args:
        layers: Convs.
        module: The graph; it stays as it is.
        ctx: Measures.

    Raises:
        CalibrationError: There is no data.

    """
    for run in _runs(layers):
        yield from _measured(run, module, ctx)


def _leave_alone(outputs: Sequence[ir.Value], module: GraphModule, ctx: PassContext) -> None:
    """Remove what these values do not need."""
    ctx.edit.set_outputs(outputs, why="they alone are measured")
    for pass_ in parse_pipeline("remove-dead"):
        pass_.run(module, ctx)


def _runs(layers: Sequence[Layer]) -> Iterator[list[Layer]]:
    run: list[Layer] = []
    for layer in layers:
        if run and sum(_groups(one) * patch_size(one) ** 2 for one in (*run, layer)) > MOST_PRODUCTS:
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
    probes = [_probe(nodes[layer.node.name], layer, inner.edit) for layer in layers]
    _leave_alone(probes, copy, inner)
    needs = [_need(probe, layer) for probe, layer in zip(probes, layers, strict=True)]
    found = ctx.measure(copy, needs)
    return [_gram(found[need.value], layer) for need, layer in zip(needs, layers, strict=True)]


def _probe(node: ir.Node, layer: Layer, edit: Editor) -> ir.Value:
    """Write out what tells the Gram matrix: the patches, or the products of those of each group."""
    patches = _patches(node, layer, edit)
    return patches if _groups(layer) == 1 else _group_products(layer, patches, edit)


def _group_products(layer: Layer, patches: ir.Value, edit: Editor) -> ir.Value:
    """Write out the products of the patches of each group: (N, G * C * C)."""
    op, name = edit.behind(patches, why="groups are products of their own"), name_of(patches)
    split = op.constant(f"{name}_split", np.array([0, _groups(layer), patch_size(layer), -1]))
    rows = op.Reshape(patches, split, name=f"{name}_by_group")
    turned = op.Transpose(rows, perm=[0, 1, 3, 2], name=f"{name}_turned")
    products = op.MatMul(rows, turned, name=f"{name}_products")
    return op.Flatten(products, axis=1, name=f"{name}_flat")


def _need(probe: ir.Value, layer: Layer) -> Need:
    return Need(name_of(probe), GRAM, -2) if _groups(layer) == 1 else Need(name_of(probe), MEAN, -1)


def _gram(facts: Facts, layer: Layer) -> NDArray[np.float32] | None:
    if _groups(layer) == 1:
        gram = facts.get(Gram, -2)
        return None if gram is None else gram.products
    mean, size = facts.get(Mean, -1), patch_size(layer)
    return None if mean is None else mean.values.reshape(-1, size, size)


def _patches(node: ir.Node, layer: Layer, edit: Editor) -> ir.Value:
    """Write the patches of ``node`` out, channel by channel, (N, C * kernel, places)."""
    channels, kernel = _ints(layer.weight)[1] * _groups(layer), _ints(layer.weight)[2:]
    op, name = edit.at(node, why="its input is measured as it is multiplied"), f"{layer.output.name}_patches"
    single = np.tile(np.eye(prod(kernel), dtype=np.float32), (channels, 1)).reshape(-1, 1, *kernel)
    written = op.Conv(
        node.inputs[0],
        op.constant(f"{name}_single", single),
        group=channels,
        pads=_pads(layer),
        strides=_strides(layer),
        dilations=_spread(layer),
        name=f"{name}_written",
    )
    rows = op.constant(f"{name}_rows", np.array([0, len(single), -1]))
    return op.Reshape(written, rows, name=name)


def _spread(layer: Layer) -> list[int]:
    """Return how far neighbours of the window lie apart, along each axis."""
    return list(attribute(layer.node, "dilations", [1] * (len(_ints(layer.weight)) - 2)))


def _pads(layer: Layer) -> list[int]:
    """Return what is padded in front along each axis, and then behind.

    Where the operator pads so that sizes stay the same, and they are not known, the size is taken to be a
    multiple of the strides.
    """
    kernel, auto = _ints(layer.weight)[2:], attribute(layer.node, "auto_pad", "NOTSET")
    if not auto.startswith("SAME"):
        return list(attribute(layer.node, "pads", [0] * 2 * len(kernel)))
    shape = layer.activation.shape
    sizes = [None] * len(kernel) if shape is None else list(shape)[2:]
    steps = attribute(layer.node, "strides", [1] * len(kernel))
    both, windows = [], (np.array(kernel) - 1) * np.array(_spread(layer)) + 1
    for size, step, window in zip(sizes, steps, windows, strict=True):
        over = (size % step or step) if isinstance(size, int) else step
        both.append(max(int(window) - over, 0))
    less, more = [total // 2 for total in both], [total - total // 2 for total in both]
    return [*less, *more] if auto == "SAME_UPPER" else [*more, *less]


def _strides(layer: Layer) -> list[int]:
    """Return the layer's strides, times as much as leaves about ``PLACES`` of a known size."""
    own = attribute(layer.node, "strides", [1] * (len(_ints(layer.weight)) - 2))
    shape = layer.output.shape
    sizes = [None] * len(own) if shape is None else list(shape)[2:]
    spare = 0 if _groups(layer) == 1 else PLACES - 1
    return [
        step * max(1, (size + spare) // PLACES) if isinstance(size, int) else step
        for step, size in zip(own, sizes, strict=True)
    ]


def _ints(value: ir.Value) -> list[int]:
    return [] if value.shape is None else [int(length) for length in value.shape.numpy()]
