"""Move what a Relu never cuts off from one layer's bias into the next, so that activations reach less far.

Before: ``y = Conv(x, w1, b1); h = Relu(y); z = Conv(h, w2, b2)``. After: the same with ``b1 - c`` and
``b2 + w2 c``, where ``c = max(0, min y)`` for each channel, over the calibration data. There the result is
the same, as ``Relu(y - c) = Relu(y) - c`` for ``y >= c``; where other data goes below ``c`` it is not, so
the pass counts as quantizing. Equalized layers need it most: their biases grow with their scales.

Source: Nagel et al., 2019, arXiv:1906.04721, section 4.1.3, with the measured minimum in the place of three
standard deviations below the mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from onnxq.analysis.channels import Operand
from onnxq.analysis.endpoints import bias_place
from onnxq.analysis.layers import Layer, pads_input
from onnxq.analysis.sites import Site, find_sites
from onnxq.ir.module import GraphModule, array_of, is_standard, name_of
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.quant.bias_correction import mean_output
from onnxq.quant.facts import Need
from onnxq.quant.statistics import ChannelRange

WHY = "the Relu between never cuts it off"


@dataclass(frozen=True)
class AbsorbBias(Pass):
    """Absorb at each pair of layers with nothing but a Relu between; run it before anything is encoded.

    Options:
        method: ``measured``, on data; or ``assumed``, where the smallest values are known without data.

    """

    name: ClassVar[str] = "absorb-bias"
    effect: ClassVar[Effect] = Effect.QUANTIZING
    method: Literal["measured", "assumed"] = "measured"

    def needs(self, module: GraphModule) -> Iterable[Need]:
        """Ask for the smallest value of each channel before the Relu."""
        for site in _sites(module):
            if _reason(site) is None and self.method == "measured":
                axis = site.source.channels.axes[0]
                yield Need(name_of(site.source.value), frozenset({ChannelRange}), axis)

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave a pair alone where a border of zeros would no longer stand for nothing."""
        for site in _sites(module):
            reason = _reason(site)
            if reason is not None:
                ctx.skip(site.scaled[0].node, reason)
                continue
            facts = module.facts_of(site.source.value)
            if facts is None:
                ctx.skip(site.scaled[0].node, "how far its channels reach is not known")
                continue
            known = facts.get(ChannelRange, site.source.channels.axes[0])
            shift = np.maximum(np.zeros(site.count) if known is None else known.low, 0.0)
            if shift.any():
                _absorb(site, shift, ctx)
            else:
                ctx.skip(site.scaled[0].node, "each of its channels goes down to zero")


def _sites(module: GraphModule) -> Iterator[Site]:
    """Yield the sites with nothing but a Relu between their layers, on every way."""
    for site in find_sites(module):
        moved = [place.value for place in site.places if place.shifted]
        behind = [value.producer() for value in moved if value is not site.source.value]
        relus = [node for node in behind if node is not None and is_standard(node, "Relu")]
        if site.kind == "relu" and len(relus) == len(behind):
            yield site


def _reason(site: Site) -> str | None:
    """Return why nothing can be absorbed, or None."""
    if site.others or site.factors:
        return "not only layers read its channels"
    if site.offset is None:
        return "it has no constant bias"
    if any(pads_input(consumer.layer) for consumer in site.consumers):
        return "the layer behind it pads with zeros, which would stand for other numbers"
    if any(bias_place(consumer.layer) is None for consumer in site.consumers):
        return "the layer behind it has no place for a bias"
    return None


def _absorb(site: Site, shift: NDArray[np.float64], ctx: PassContext) -> None:
    if site.offset is not None:
        _add(site.offset, -shift, ctx)
    for place in site.places:
        if place.shifted:
            axis = place.channels.axis
            ctx.edit.rescale(place.value, np.ones_like(shift), shift, axis=axis, why=WHY)
    for consumer in site.consumers:
        _take_in(consumer.layer, shift, ctx)


def _take_in(layer: Layer, shift: NDArray[np.float64], ctx: PassContext) -> None:
    """Add what the layer makes of ``shift`` to its bias; a product without the bias is less by that."""
    added = mean_output(np.moveaxis(array_of(layer.weight), layer.channel_axis, 0), shift)
    bias = bias_place(layer)
    if bias is None:
        return
    _add(bias, added, ctx)
    if bias.node is not layer.node:
        ctx.edit.rescale(layer.output, np.ones_like(added), added, axis=layer.output_axis, why=WHY)


def _add(bias: Operand, added: NDArray[np.float64], ctx: PassContext) -> None:
    old = np.zeros(1) if bias.constant is None else bias.constant
    name = f"{bias.node.outputs[0].name}_bias"
    new = ctx.edit.constant(name, (old + bias.spread(added)).astype(np.float32), why=WHY)
    ctx.edit.rewire(bias.node, bias.index, new, why=WHY)
