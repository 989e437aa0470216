"""Give layers in a row channels of equal weight, so that one scale for all of them loses little.

Before: ``y = Conv(x, w1, b1); h = Relu(y); z = Conv(h, w2)``. After: the same with ``w1 / s`` and ``b1 / s``
for each output channel and ``w2 * s`` for each input channel, where ``s = sqrt(r1 r2) / r2``, and ``r1`` and
``r2`` are the largest weights of the channel on either side. A scale passes a Relu, poolings, and whatever
else a fold site leads through.

Source: Nagel et al., 2019, arXiv:1906.04721, section 4.1; Nagel et al., 2021, arXiv:2106.08295, section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from onnxq.analysis.channels import Operand
from onnxq.analysis.layers import linear_layers
from onnxq.analysis.sites import Site, find_sites
from onnxq.ir.module import LINEAR, GraphModule, array_of, is_standard, sole_reader
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.quant.equalization import equalizing_scale, largest_by_channel
from onnxq.rewrite.fold import fold

Doubles = NDArray[np.float64]

KINDS = ("linear", "relu")
ROUNDS = 100
"""Enough for long chains; each round brings every pair nearer to its balance."""
STABLE = 1e-3
"""A round that moves no scale by more than this part is the last."""


@dataclass(frozen=True)
class EqualizeLayers(Pass):
    """Equalize every pair of layers whose channels nobody else reads; run it before anything is encoded."""

    name: ClassVar[str] = "equalize-layers"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Find all scales first, as neighbours depend on each other, and fold once."""
        sites = [site for site in find_sites(module) if site.kind in KINDS and _is_free(site, ctx)]
        _name_clips(module, ctx)
        scales = _Balance(sites).scales()
        for site, scale in zip(sites, scales, strict=True):
            if (scale != 1).any():
                fold(site, scale, ctx.edit, why="both layers get channels of equal weight")


def _is_free(site: Site, ctx: PassContext) -> bool:
    """Tell whether a scale costs nothing here; say why if not."""
    producer = site.source.value.producer()
    if producer is not None and (site.others or site.factors):
        ctx.skip(producer, "not only layers read its channels")
    return not (site.others or site.factors)


def _name_clips(module: GraphModule, ctx: PassContext) -> None:
    """Say of each Clip between two layers that it keeps them apart."""
    for layer in linear_layers(module):
        clip = sole_reader(layer.output)
        if clip is None or not is_standard(clip, "Clip"):
            continue
        if any(is_standard(reader, *LINEAR) for reader in clip.outputs[0].consumers()):
            ctx.skip(clip, "no scale passes its bounds; relax-clips makes a Relu of it where none is reached")


class _Balance:
    """The weights on both sides of all sites, as they become while scales are found."""

    def __init__(self, sites: Sequence[Site]) -> None:
        """Take copies of the weights, by the node that reads them."""
        self.sites = sites
        operands = [operand for site in sites for operand in _weights(site)]
        self.weights = {operand.node: _array(operand) for operand in operands}

    def scales(self) -> list[Doubles]:
        """Return the scale of each site, after as many rounds as it takes until nothing moves."""
        scales = [np.ones(site.count) for site in self.sites]
        for _ in range(ROUNDS):
            moves = [self._equalize(site) for site in self.sites]
            scales = [scale * move for scale, move in zip(scales, moves, strict=True)]
            if all(np.abs(move - 1).max() < STABLE for move in moves):
                break
        return scales

    def _equalize(self, site: Site) -> Doubles:
        made, *met = _weights(site)
        scale = equalizing_scale(self._largest(made), np.max([self._largest(one) for one in met], axis=0))
        self.weights[made.node] /= made.spread(scale)
        for operand in met:
            self.weights[operand.node] *= operand.spread(scale)
        return scale

    def _largest(self, operand: Operand) -> Doubles:
        axis = operand.channels.axes[0]
        return largest_by_channel(self.weights[operand.node], axis, operand.groups)


def _weights(site: Site) -> list[Operand]:
    """Return the weight that makes the channels, and those that they meet."""
    return [site.scaled[0], *(consumer.weight for consumer in site.consumers)]


def _array(operand: Operand) -> Doubles:
    return array_of(operand.node.inputs[operand.index]).astype(np.float64)
