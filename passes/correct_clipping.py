"""Let a few outlier channels saturate, and add what was cut off by a small product in float.

Before: ``y = MatMul(x, w)`` with ``x`` and ``w`` encoded. After: ``c = Min(x, bounds); r = x[k] -
Clip(x[k]); y = MatMul(c, w) + MatMul(r, w[k])``, where ``k`` are the channels with the largest values, cut
off at the end of a grid that fits all others, and ``bounds`` leaves the others as they are: the same
function, for any finite ``x``. ``c`` is encoded in the place of ``x``, in finer steps. Where its Min is left
to QuantizeLinear, which saturates there anyway, the large tensor is not touched: see fold-clips.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.analysis.layers import Layer, linear_layers
from onnxq.ir.module import (
    GraphModule,
    array_of,
    constant_of,
    is_standard,
    name_of,
    rank_of,
    sole_reader,
)
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.passmanager.memo import Memo, content_of
from onnxq.quant.encodings import Encoding, affine_encoding
from onnxq.quant.facts import Need
from onnxq.quant.outliers import narrowest_range, product_error
from onnxq.quant.statistics import ChannelRange, Rows

CUT = "cut off where its grid shall end"
ADD = "what was cut off is added in float"
UNBOUNDED = np.finfo(np.float32).max


@dataclass(frozen=True)
class CorrectClipping(Pass):
    """Refine the encoding of each MatMul's input for which that pays; run it after encode-activations.

    Options:
        channels: How many channels of a value may saturate.
        gain: The least factor by which the squared error of the layers' outputs, which quantizing the value
            causes, must shrink on sampled rows.
        sites: Names of values, in which * stands for anything.

    """

    name: ClassVar[str] = "correct-clipping"
    effect: ClassVar[Effect] = Effect.EXACT
    channels: int = 8
    gain: float = 4.0
    sites: tuple[str, ...] = ("*",)

    def needs(self, module: GraphModule) -> Iterable[Need]:
        """Ask for the range of each channel, and for rows to estimate the gain on."""
        for layers in self._readers(module):
            yield Need(name_of(layers[0].activation), frozenset({ChannelRange, Rows}))

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Take all layers that read a value together; each adds a product of its own."""
        for layers in self._readers(module):
            value = layers[0].activation  # as it is now: a correction may have put another in its place
            assigned = ctx.precision.of_value(value)
            reason = None if assigned is None else f"the recipe assigns {assigned} to it"
            found = reason or self._site(value, layers, module, ctx.memo)
            if isinstance(found, str):
                for layer in layers:
                    ctx.skip(layer.node, f"{name_of(value)!r} keeps its range: {found}")
            else:
                _correct(found, ctx)

    def _readers(self, module: GraphModule) -> list[list[Layer]]:
        """Return the encoded MatMuls, those that read the same value together."""
        readers: dict[ir.Value, list[Layer]] = {}
        for layer in linear_layers(module):
            matrix = layer.node.op_type == "MatMul" and rank_of(layer.weight) == 2
            if matrix and module.reads_encoded(layer.node, layer.weight) and self._allows(layer.activation):
                readers.setdefault(layer.activation, []).append(layer)
        return list(readers.values())

    def _allows(self, value: ir.Value) -> bool:
        return any(fnmatchcase(name_of(value), pattern) for pattern in self.sites)

    def _site(self, value: ir.Value, layers: list[Layer], module: GraphModule, memo: Memo) -> Site | str:
        """Return what to correct, or the reason why the value keeps its range."""
        facts = module.measured(value)
        rows, along = facts.get(Rows), facts.get(ChannelRange)
        if rows is None or along is None:
            return "it never had an element"
        old, reason = module.encoding_at(layers[0].node, 0), _reason(value, layers, module)
        if reason is not None or old is None:
            return reason or "it is not encoded"
        if len(along.low) != len(array_of(layers[0].weight)):
            return "it is a vector, of whose channels nothing is known"
        if len(along.low) <= self.channels:
            return f"it has no more than {self.channels} channels"
        found = narrowest_range(along.low, along.high, self.channels)
        encoding = affine_encoding(found.low, found.high, limit=old.limit)
        above = bool((along.high[found.channels] > encoding.high).any())
        below = bool((along.low[found.channels] < encoding.low).any())
        site = Site(value, layers, encoding, found.channels, below, above)
        weights = [array_of(layer.weight) for layer in layers]
        key = "gain", content_of(rows.values, found.channels, *weights), old, encoding
        gain = memo.of(key, lambda: site.gain(rows.values, old))
        return site if gain >= self.gain else f"the error would shrink by a factor of {gain:.2f} only"


@dataclass(frozen=True)
class Site:
    """One value to correct.

    Args:
        value: What is encoded.
        layers: The MatMuls that read it so.
        encoding: Its new encoding, for all but the outlier channels.
        channels: The outlier channels, which may saturate.
        below: Whether they reach below the new grid.
        above: Whether they reach above it.

    """

    value: ir.Value
    layers: list[Layer]
    encoding: Encoding
    channels: NDArray[np.intp]
    below: bool
    above: bool

    def gain(self, rows: NDArray[np.float32], old: Encoding) -> float:
        """Return by which factor the squared error of the layers' outputs shrinks on ``rows``."""
        weight = np.hstack([array_of(layer.weight) for layer in self.layers])
        clipped = rows.copy()
        clipped[:, self.channels] = rows[:, self.channels].clip(self.encoding.low, self.encoding.high)
        left = product_error(clipped, weight, self.encoding)
        return product_error(rows, weight, old) / max(left, np.finfo(np.float64).tiny)


def _reason(value: ir.Value, layers: list[Layer], module: GraphModule) -> str | None:
    nodes, read = {layer.node for layer in layers}, [one for one in module.decisions(value) if one.uses]
    if not all(module.reads_encoded(node, value) for node in nodes):
        return "it is not encoded for all of its MatMuls"
    if any(set(decision.readers) - nodes for decision in read):
        return "others than MatMuls read it encoded"
    if len(read) > 1 or read[0].encoding.axis is not None or read[0].encoding.dtype != "uint8":
        return "its grid is not one of uint8"
    if any(module.is_encoded(layer.clamped_output) for layer in layers):
        return "the output of a layer is encoded too"
    return None


def _correct(site: Site, ctx: PassContext) -> None:
    nodes = [layer.node for layer in site.layers]
    ctx.edit.forget(site.value, readers=nodes, why=CUT)
    clipped, rest = _cut(site, ctx), _rest(site, ctx)
    for layer in site.layers:
        ctx.edit.rewire(layer.node, 0, clipped, why=CUT)
        _add_product(layer, rest, site.channels, ctx)
    why = f"range without {len(site.channels)} outlier channels"
    ctx.edit.encode(clipped, site.encoding, readers=nodes, why=why)


def _cut(site: Site, ctx: PassContext) -> ir.Value:
    """Return the value with its outlier channels held within the grid, and all others as they are."""
    op, name, clipped = ctx.edit.at(site.layers[0].node, why=CUT), site.value.name, site.value
    ends = {}
    for op_type, end, open_end, needed in (
        ("Min", site.encoding.high, UNBOUNDED, site.above),
        ("Max", site.encoding.low, -UNBOUNDED, site.below),
    ):
        ends[op_type] = bounds = np.full(len(array_of(site.layers[0].weight)), open_end, np.float32)
        if needed:
            bounds[site.channels] = end
            constant = op.constant(f"{name}_{op_type.lower()}", bounds)
            clipped = op(op_type, clipped, constant, name=f"{name}_cut")
    ctx.edit.hold(site.value, ends["Max"], ends["Min"], axis=-1, to=clipped, why=CUT)
    return clipped


def _rest(site: Site, ctx: PassContext) -> ir.Value:
    """Return what is cut off the outlier channels, shape (..., k)."""
    op, name = ctx.edit.at(site.layers[0].node, why=ADD), site.value.name
    chosen = op.constant(f"{name}_outliers", site.channels.astype(np.int64))
    low = op.constant(f"{name}_low", site.encoding.low) if site.below else None
    high = op.constant(f"{name}_high", site.encoding.high) if site.above else None
    whole = op.Gather(site.value, chosen, axis=-1, name=f"{name}_whole")
    held = op.Clip(whole, low, high, name=f"{name}_held")
    return op.Sub(whole, held, name=f"{name}_rest")


def _add_product(layer: Layer, rest: ir.Value, channels: NDArray[np.intp], ctx: PassContext) -> None:
    """Add the product behind the bias, which the integer kernel adds; a Sum takes one term more."""
    op, total = ctx.edit.at(layer.node, why=ADD), _with_bias(layer)
    weight = op.constant(f"{layer.weight.name}_outliers", array_of(layer.weight)[channels])
    product = op.MatMul(rest, weight, name=f"{total.name}_rest")
    reader = sole_reader(total)
    if reader is not None and is_standard(reader, "Sum"):
        ctx.edit.rewire(reader, len(reader.inputs), product, why=ADD)
        return
    corrected = ctx.edit.behind(total, why=ADD).Add(total, product, name=f"{total.name}_corrected")
    ctx.edit.replace(total, corrected, why=ADD)


def _with_bias(layer: Layer) -> ir.Value:
    """Return the output of the Add of a constant behind the layer, or the layer's own."""
    add = sole_reader(layer.output)
    if add is None or not is_standard(add, "Add", "Sum") or len(add.inputs) != 2:
        return layer.output
    constant = any(constant_of(value) is not None for value in add.inputs)
    return add.outputs[0] if constant else layer.output
