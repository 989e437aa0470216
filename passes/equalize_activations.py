"""Give the channels of activations ranges that differ less, so that one scale for all of them loses less.

Before: ``y = Conv(x, w1, b1); h = Relu(y); z = Conv(h, w2)``. After: the same with ``w1 / s`` and ``b1 / s``
for each output channel and ``w2 * s`` for each input channel, where ``s = r^alpha`` and ``r`` is the largest
magnitude of the channel on the calibration data. With one scale for each output channel of ``w1``, its
integers stay as they were. A scale passes Relu, pooling and Concat, and whatever else lets every positive
factor pass.

With alpha 1, all channels would reach equally far. Then every channel is cut off where other data reaches
beyond the calibration data, and the weights that read them differ much. Half way is better.

Source: the scale is that of Xiao et al., 2022, arXiv:2211.10438 (SmoothQuant), without the part of the
weights; the places are those of Nagel et al., 2019, arXiv:1906.04721.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from onnxq.ir.module import GraphModule, name_of
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.quant.equalization import evening_scale
from onnxq.quant.facts import Kind, Need
from onnxq.quant.statistics import ChannelRange, Rows
from onnxq.rewrite.numbering import Numbering


@dataclass(frozen=True)
class EqualizeActivations(Pass):
    """Scale the channels between layers by their ranges; run it before anything is encoded.

    Options:
        alpha: Above 0, where ranges stay as they are, to 1, equal ranges.

    """

    name: ClassVar[str] = "equalize-activations"
    effect: ClassVar[Effect] = Effect.EXACT
    numbers_only: ClassVar[bool] = True
    alpha: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what would change nothing, or turn ranges around."""
        if not 0 < self.alpha <= 1:
            raise ValueError(f"alpha lies above 0 and is at most 1: {self.name}{{off}} changes nothing")

    def needs(self, module: GraphModule) -> Iterable[Need]:
        """Ask for the range of each channel that a layer reads, where it takes a scale."""
        return self._needs(module, frozenset({ChannelRange}))

    def foresees(self, module: GraphModule) -> Iterable[Need]:
        """Ask for rows as well: what is scaled and then encoded gets its histogram from them."""
        return self._needs(module, frozenset({ChannelRange, Rows}))

    def _needs(self, module: GraphModule, stats: frozenset[Kind]) -> Iterator[Need]:
        found = Numbering.of(module)
        for value in found.read:
            if not found.pinned.issuperset(found.numbers[value].tolist()):
                yield Need(name_of(value), stats, found.axes[value].axes[0])

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave channels alone that not only layers read, or that were never seen or are infinite."""
        found = Numbering.of(module)
        largest, scale = _largest(found, module), np.ones(found.count)
        for source in found.sources:
            numbers = found.numbers[source.place.value]
            node = source.scaled.node
            if not found.pinned.isdisjoint(numbers.tolist()):
                ctx.skip(node, "not only layers read its channels")
            elif not np.isfinite(largest[numbers]).all():
                ctx.skip(node, "its channels are infinite somewhere")
            else:
                scale[numbers] = evening_scale(largest[numbers], self.alpha)
        found.fold(scale, ctx.edit, why=f"ranges of channels to the power of {1 - self.alpha:g}")


def _largest(found: Numbering, module: GraphModule) -> NDArray[np.float64]:
    """Return the largest magnitude of each numbered channel, as layers read it."""
    largest = np.zeros(found.count)
    for value in found.read:
        facts = module.facts_of(value)
        along = None if facts is None else facts.get(ChannelRange, found.axes[value].axes[0])
        if along is not None:
            reach = np.maximum(-along.low, along.high)
            np.maximum.at(largest, found.numbers[value], reach.astype(np.float64))
    return largest
