"""Fold constant factors and offsets into the convolutions around them, and factors of channels into products.

Before: ``h = Conv(x, w, b); s = Mul(h, c); y = Add(s, d)``. After: ``y = Conv(x, w c, b c + d)``; ``c`` and
``d`` are one number, or one for each output channel.

Before: ``s = Mul(h, c); t = Add(s, d); y = Conv(t, w, b)`` with one number each. After: ``t = Add(h, d / c);
y = Conv(t, w c, b)``, and where the convolution pads nothing ``y = Conv(h, w c, b + d sum(w))``: a border of
zeros stands for the same zeros in front of a factor, and for other numbers in front of an offset.

Before: ``h = MatMul(x, w); t = Add(h, b); y = Mul(t, c)``, with one number in ``c`` for each channel, as in a
LayerScale. After: ``h = MatMul(x, w c); y = Add(h, b c)``. A factor that is one number stays: its product
costs next to nothing, and a large weight that is not held in memory would have to be.

A division by a constant counts as a product, and a subtraction as a sum. Learnable scales around activations
leave such chains, as in PP-LCNetV3, and so does a HardSwish that is written out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.analysis.layers import Layer, layer_of, pads_input
from onnxq.ir.module import (
    GraphModule,
    array_of,
    attribute,
    constant_of,
    is_float,
    is_standard,
    rank_of,
    sole_reader,
)
from onnxq.passmanager.base import Effect, Pass, PassContext

Floats = NDArray[np.float64]
WHY = "the convolution beside it takes it in"
INTO_PRODUCT = "the weight and the bias before it take it in"


@dataclass(frozen=True)
class _Term:
    """A constant that multiplies, or is added to, what ``value`` holds."""

    node: ir.Node
    value: ir.Value
    constant: Floats
    scales: bool

    @property
    def output(self) -> ir.Value:
        return self.node.outputs[0]

    @property
    def is_number(self) -> bool:
        return self.constant.size == 1 and self.constant.ndim <= (rank_of(self.value) or 0)


@dataclass(frozen=True)
class _Change:
    """The weight and the bias that a convolution gets; None for those that stay."""

    layer: Layer
    weight: NDArray[np.float32] | None
    bias: NDArray[np.float32] | None


@dataclass(frozen=True)
class FoldScalars(Pass):
    """Fold where nobody else reads what lies between; computed in float64, so that folding rounds once."""

    name: ClassVar[str] = "fold-scalars"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Fold into what lies before; and what is left into what lies behind, as long as something is."""
        for node in list(module.graph):
            _into_layer_before(node, ctx)
            _into_product_before(node, ctx)
        while sum(_into_layers_behind(node, ctx) for node in reversed(list(module.graph))):
            pass


def _term_of(node: ir.Node) -> _Term | None:
    if not is_standard(node, "Add", "Div", "Mul", "Sub"):
        return None
    left, right = node.inputs
    if is_standard(node, "Add", "Mul") and constant_of(left) is not None:
        left, right = right, left
    constant = constant_of(right)
    if left is None or constant is None or constant_of(left) is not None or not is_float(left):
        return None
    number = constant.astype(np.float64)
    with np.errstate(divide="ignore"):
        inverse = {"Div": lambda: 1 / number, "Sub": lambda: -number}.get(node.op_type, lambda: number)()
    return _Term(node, left, inverse, is_standard(node, "Div", "Mul"))


def _into_layer_before(node: ir.Node, ctx: PassContext) -> None:
    term = _term_of(node)
    layer = None if term is None else _convolution(term.value.producer())
    if term is None or layer is None or sole_reader(layer.output) is not node:
        return
    constant = _by_channel(term, layer)
    change = None if constant is None else _before(layer, constant, term.scales)
    if change is None:
        ctx.skip(node, "the convolution before it cannot take it in")
        return
    _apply(change, ctx)
    ctx.edit.forget(layer.output, why=WHY)
    ctx.edit.replace(term.output, layer.output, why=WHY)
    ctx.edit.remove(node, why=WHY)


def _into_product_before(node: ir.Node, ctx: PassContext) -> None:
    """Fold a factor for each channel into a MatMul, past the Add of its bias."""
    term = _term_of(node)
    if term is None or not term.scales or not _is_along_channels(term):
        return
    bias = _bias_behind_product(term.value)
    product = term.value if bias is None else bias.value
    layer = _product(product.producer())
    readers = {term.value: node} | ({} if bias is None else {product: bias.node})
    if layer is None or any(sole_reader(value) is not reader for value, reader in readers.items()):
        return
    constants = [(layer.node, layer.weight)] + (
        [] if bias is None else [(bias.node, _constant_of(bias.node))]
    )
    scaled = [_scaled(constant, term.constant.reshape(-1)) for _, constant in constants]
    if not all(np.isfinite(array).all() for array in scaled):
        ctx.skip(node, "float32 does not hold what is before it with its factor")
        return
    for (reader, constant), array in zip(constants, scaled, strict=True):
        new = ctx.edit.constant(f"{constant.name}_scaled", array, why=INTO_PRODUCT)
        ctx.edit.rewire(reader, list(reader.inputs).index(constant), new, why=INTO_PRODUCT)
    _drop(node, term, product, ctx)


def _drop(node: ir.Node, term: _Term, product: ir.Value, ctx: PassContext) -> None:
    """Let the readers of the factor's output read its input."""
    for value in dict.fromkeys((product, term.value)):
        ctx.edit.forget(value, why=INTO_PRODUCT)
    ctx.edit.replace(term.output, term.value, why=INTO_PRODUCT)
    ctx.edit.remove(node, why=INTO_PRODUCT)


def _scaled(constant: ir.Value, factor: Floats) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        scaled: NDArray[np.float32] = (array_of(constant).astype(np.float64) * factor).astype(np.float32)
    return scaled


def _is_along_channels(term: _Term) -> bool:
    """Tell whether there is one number for each entry of the last axis, and the rank stays."""
    shape = term.constant.shape
    return 1 < term.constant.size == shape[-1] and len(shape) <= (rank_of(term.value) or 0)


def _bias_behind_product(value: ir.Value) -> _Term | None:
    """Return the Add of a bias that gives ``value``."""
    add = value.producer()
    term = None if add is None or not is_standard(add, "Add") else _term_of(add)
    return term if term is not None and term.constant.size in (1, *term.constant.shape[-1:]) else None


def _constant_of(node: ir.Node) -> ir.Value:
    return next(value for value in node.inputs if value is not None and constant_of(value) is not None)


def _product(node: ir.Node | None) -> Layer | None:
    """Return the layer of a MatMul whose matrix nobody else reads; None for any other node."""
    found = layer_of(node) if node is not None and is_standard(node, "MatMul") else None
    alone = isinstance(found, Layer) and len(found.weight.uses()) == 1 and rank_of(found.weight) == 2
    return found if isinstance(found, Layer) and alone else None


def _convolution(node: ir.Node | None) -> Layer | None:
    """Return the layer of a convolution with a constant bias, or without; None for any other node."""
    found = layer_of(node) if node is not None and is_standard(node, "Conv", "ConvTranspose") else None
    if not isinstance(found, Layer) or (found.bias is not None and constant_of(found.bias) is None):
        return None
    return found


def _by_channel(term: _Term, layer: Layer) -> Floats | None:
    """Return the constant by output channel of ``layer``, shape () or (C,); None if it has another shape."""
    rank = rank_of(layer.weight) or 0
    if term.is_number:
        return term.constant.reshape(())
    shape = (1,) * (rank - term.constant.ndim) + term.constant.shape
    shared = is_standard(layer.node, "ConvTranspose") and attribute(layer.node, "group", 1) != 1
    if len(shape) != rank or shared:
        return None
    alone = shape[1] == term.constant.size == array_of(layer.weight).shape[layer.channel_axis]
    return term.constant.reshape(-1) if alone else None


def _before(layer: Layer, constant: Floats, scales: bool) -> _Change | None:
    """Return what gives ``constant`` times as much, or more by it."""
    weight, bias = _weight(layer), _bias(layer)
    if not scales:
        return _change(layer, None, bias + constant)
    factor = constant.reshape([-1 if axis == layer.channel_axis else 1 for axis in range(weight.ndim)])
    return _change(layer, weight * factor, None if layer.bias is None else bias * constant)


def _into_layers_behind(node: ir.Node, ctx: PassContext) -> bool:
    """Fold one number into all that reads it, past an offset in between, and tell whether that was done."""
    term = _term_of(node) if node.graph is not None else None
    if term is None or not term.is_number or term.output.is_graph_output():
        return False
    offset = _offset_behind(term)
    layers = list(_readers(term.output if offset is None else offset.output))
    changes = [None if layer is None else _behind(layer, term) for layer in layers]
    if not changes or None in changes:
        return False
    source = term.value if offset is None else _offset_before(offset, term, ctx)
    for change in filter(None, changes):
        _apply(change, ctx)
        ctx.edit.rewire(change.layer.node, 0, source, why=WHY)
    for left in ([] if offset is None else [offset.node]) + [node]:
        ctx.edit.remove(left, why=WHY)
    return True


def _offset_behind(factor: _Term) -> _Term | None:
    """Return the offset that alone reads the factor's output, if it can come first."""
    reader = sole_reader(factor.output)
    offset = None if reader is None or not factor.scales else _term_of(reader)
    if offset is None or offset.scales or not offset.is_number or offset.output.is_graph_output():
        return None
    return offset if np.isfinite(_in_units_of(factor, offset)).all() else None


def _in_units_of(factor: _Term, offset: _Term) -> NDArray[np.float32]:
    with np.errstate(all="ignore"):
        return (offset.constant / factor.constant.reshape(())).astype(np.float32)


def _offset_before(offset: _Term, factor: _Term, ctx: PassContext) -> ir.Value:
    op = ctx.edit.at(offset.node, why=WHY)
    return op.Add(factor.value, _in_units_of(factor, offset), name=f"{offset.output.name}_unscaled")


def _readers(value: ir.Value) -> Iterator[Layer | None]:
    """Yield the convolutions that read ``value``; None for another reader."""
    for use in value.uses():
        yield _convolution(use.node) if use.idx == 0 and is_standard(use.node, "Conv") else None


def _behind(layer: Layer, term: _Term) -> _Change | None:
    """Return what makes of the number's input what the layer makes of its output."""
    number, weight = term.constant.reshape(()), _weight(layer)
    if term.scales:
        return _change(layer, weight * number, None)
    added = number * weight.sum(axis=tuple(range(1, weight.ndim)))
    return None if pads_input(layer) else _change(layer, None, _bias(layer) + added)


def _weight(layer: Layer) -> Floats:
    return array_of(layer.weight).astype(np.float64)


def _bias(layer: Layer) -> Floats:
    channels = array_of(layer.weight).shape[layer.channel_axis] * _groups_of_outputs(layer)
    return np.zeros(channels) if layer.bias is None else array_of(layer.bias).astype(np.float64)


def _groups_of_outputs(layer: Layer) -> int:
    """Return how often the weight of a ConvTranspose counts the output channels of one group."""
    return int(attribute(layer.node, "group", 1)) if layer.node.op_type == "ConvTranspose" else 1


def _change(layer: Layer, weight: Floats | None, bias: Floats | None) -> _Change | None:
    """Return the change, rounded; None if float32 does not hold it."""
    with np.errstate(over="ignore"):
        rounded = [None if new is None else new.astype(np.float32) for new in (weight, bias)]
    finite = all(new is None or np.isfinite(new).all() for new in rounded)
    return _Change(layer, *rounded) if finite else None


def _apply(change: _Change, ctx: PassContext) -> None:
    layer, names = change.layer, (f"{change.layer.weight.name}_scaled", f"{change.layer.output.name}_bias")
    for index, new, name in zip((1, 2), (change.weight, change.bias), names, strict=True):
        if new is not None:
            ctx.edit.rewire(layer.node, index, ctx.edit.constant(name, new, why=WHY), why=WHY)
