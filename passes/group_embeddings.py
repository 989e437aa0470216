"""Give groups of embedding dimensions ranges of their own, so that outliers in a few leave the others alone.

The channels are sorted by their range and cut into groups, of equal size or where it costs least. Sorting
only says which channel belongs to which group: no data moves, but in ``split``.

``fold``: before ``x = LayerNormalization(r, gamma, beta); y = MatMul(x, w)``, after ``x' =
LayerNormalization(r, gamma / s, beta / s); y = MatMul(x', w * s)`` with the size of its group as the scale
``s_j`` of each channel: one scale for the tensor then serves all groups. It stands in front of the passes
that encode.

``axis``: ``encode x: scale`` becomes ``encode x: axis=-1 scale``, with a distinct scale and zero point for
each group, on what enters and leaves each normalization, and on what is summed before it, with its bias and
without. It stands behind ``encode-activations{scope=all-tensors}``.

``split``: before ``y = MatMul(x, w)``, after ``x_g = Gather(x, g); y_g = MatMul(x_g, w[g]); y = Sum(y_1, y_2,
...)``, for integer hardware with one scale for a tensor: each part gets an encoding of its own. It stands in
front of the passes that encode.

Source: Bondarenko et al., 2021, arXiv:2109.12948, section 4. The folded form is ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from onnxq.analysis.around_norms import around_norms
from onnxq.analysis.endpoints import Consumer
from onnxq.ir.module import GraphModule, array_of, name_of, rank_of
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.passmanager.sites import FoldKind, fold_best, needs_of, sites_of
from onnxq.quant.facts import Need
from onnxq.quant.grouping import (
    Floats,
    Groups,
    Order,
    Sizes,
    group_channels,
    group_encoding,
    group_scales,
)
from onnxq.quant.migration import Candidate, Sample, joint_range
from onnxq.quant.statistics import ChannelRange


@dataclass(frozen=True)
class GroupEmbeddings(Pass):
    """Cut the channels into groups.

    Options:
        mode: ``fold``, ``axis`` or ``split``: see ``onnxq passes group-embeddings``.
        groups: How many groups.
        order: ``range`` sorts the channels by range before they are cut, ``index`` leaves them as they lie.
        sizes: ``equal``, or ``fitted``: cut where the expected rounding error is smallest, so that a single
            channel far beyond all others gets a group of its own.
        kinds: The kinds of fold sites for ``fold`` and ``split``.
        shift: With ``fold``: centre each group too, where a site allows it.
        paid: With ``fold``: whether to use sites that cost a node at run time.
        gain: With ``fold``: how many decibels a site that costs something has to bring.

    """

    name: ClassVar[str] = "group-embeddings"
    effect: ClassVar[Effect] = Effect.EXACT
    mode: Literal["fold", "axis", "split"] = "fold"
    groups: int = 6
    order: Order = "range"
    sizes: Sizes = "equal"
    kinds: tuple[FoldKind, ...] = ("norm",)
    shift: bool = False
    paid: bool = True
    gain: float = 1.0

    def needs(self, module: GraphModule) -> Iterable[Need]:
        """Ask for ranges by channel, and in ``fold`` for sampled rows."""
        if self.mode == "axis":
            for value in around_norms(module):
                yield Need(name_of(value), frozenset({ChannelRange}))
        else:
            yield from needs_of(module, self.kinds, paid=self.paid or self.mode == "split")

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Work in the chosen mode."""
        if self.mode == "fold":
            fold_best(module, ctx, self.kinds, self._candidates, paid=self.paid, gain=self.gain)
        elif self.mode == "axis":
            self._encode(module, ctx)
        else:
            self._split(module, ctx)

    def _groups(self, low: Floats, high: Floats) -> Groups:
        return group_channels(low, high, self.groups, self.order, self.sizes)

    def _candidates(self, samples: list[Sample], shift: bool) -> Iterable[Candidate]:
        low, high = joint_range(samples)
        scale, moved = group_scales(low, high, self._groups(low, high), shift=shift and self.shift)
        yield f"{self.groups} groups", scale, moved

    def _encode(self, module: GraphModule, ctx: PassContext) -> None:
        """Replace the one scale of each encoded value around a normalization."""
        for value in around_norms(module):
            along, axis = module.measured(value).get(ChannelRange), (rank_of(value) or 1) - 1
            if along is None:
                continue
            groups = self._groups(along.low, along.high)
            for one in module.decisions(value):
                if one.encoding.axis is None and one.encoding.limit is None:  # a limit is that of one scale
                    encoding = group_encoding(along.low, along.high, groups, one.encoding.dtype, axis)
                    readers = None if one.for_all else one.readers
                    ctx.edit.encode(value, encoding, readers=readers, why=f"{self.groups} groups of channels")

    def _split(self, module: GraphModule, ctx: PassContext) -> None:
        """Cut the layers of each site into one part for each group."""
        for site in list(sites_of(module, self.kinds, paid=True)):
            for readers in _by_activation(site.consumers):
                value = readers[0].layer.activation
                along = module.measured(value).get(ChannelRange)
                if along is None:
                    ctx.skip(readers[0].layer.node, "its input never had an element")
                    continue
                groups = self._groups(along.low, along.high)
                parts = _gather(value, groups, ctx)
                for reader in readers:
                    _split_layer(reader, groups, parts, ctx)


def _by_activation(consumers: Iterable[Consumer]) -> list[list[Consumer]]:
    """Put those together that read the same value now: of a split layer, another has the old name."""
    found: dict[ir.Value, list[Consumer]] = {}
    for one in consumers:
        found.setdefault(one.layer.activation, []).append(one)
    return list(found.values())


def _gather(value: ir.Value, groups: Groups, ctx: PassContext) -> list[ir.Value]:
    """Return the channels of each group, taken from ``value``."""
    parts = []
    for group in range(groups.max() + 1):
        op, name = ctx.edit.behind(value, why=f"channels of group {group}"), f"{value.name}_group_{group}"
        indices = op.constant(f"{name}_indices", np.flatnonzero(groups == group))
        parts.append(op.Gather(value, indices, axis=-1, name=name))
    return parts


def _split_layer(reader: Consumer, groups: Groups, parts: list[ir.Value], ctx: PassContext) -> None:
    """Put one layer for each group and a Sum in the place of a layer."""
    layer, weight = reader.layer, array_of(reader.layer.weight)
    node, output = layer.node, layer.output
    products = []
    for group, part in enumerate(parts):
        op = ctx.edit.at(node, why=f"reads the channels of group {group}")
        rows = np.take(weight, np.flatnonzero(groups == group), axis=reader.weight.channels.axis)
        own = op.constant(f"{layer.weight.name}_group_{group}", rows)
        bias = None if group else layer.bias
        products.append(op.alike(node, part, own, bias, name=f"{output.name}_group_{group}"))
    why = "the groups together"
    total = ctx.edit.at(node, why=why).Sum(*products)
    ctx.edit.replace(output, total, why=why)
    ctx.edit.remove(node, why=why)
