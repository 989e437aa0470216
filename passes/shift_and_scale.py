"""Centre the channels of activations and shrink the outliers among them, at no cost for the layers behind.

Before: ``x = LayerNormalization(r, gamma, beta); y = MatMul(x, w) + b``. After: ``x' = LayerNormalization(r,
gamma / s, (beta - z) / s); y = MatMul(x', w * s) + (b + z w)``, with the middle ``z_j`` of each channel's
range and ``s_j = max(1, max|x_j - z_j| / t)``. Whoever else reads ``x`` gets ``x' * s + z``; in a residual
sum, ``z`` goes into the bias of the other summand. Where a site takes no shift, ``z`` is 0. It stands behind
the passes that tidy and fuse and a ``remove-dead``, since dead nodes would count as readers, and in front of
those that encode.

The threshold ``t`` is the one with the smallest error of the layers' quantized outputs. Layers that share
their input, as the three projections of attention do, count by the sum of their errors; the paper takes the
output of attention there.

Source: Wei et al., 2023, arXiv:2304.09145 (Outlier Suppression+).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

from onnxq.ir.module import GraphModule
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.passmanager.sites import FOLD_KINDS, FoldKind, fold_best, needs_of
from onnxq.quant.facts import Need
from onnxq.quant.migration import Candidate, Sample, thresholds


@dataclass(frozen=True)
class ShiftAndScale(Pass):
    """Shift and scale the channels of each fold site whose layers then have the smaller error.

    Options:
        steps: How many thresholds are tried, from the largest channel down to the median one.
        shift: Whether channels are centred where a site allows it.
        kinds: The kinds of sites: see ``onnxq inspect --sites``.
        paid: Whether to use sites that cost a Mul, and an Add for the shift, at run time.
        gain: How many decibels a site that costs something has to bring.
        bits: What weights and activations will be quantized to, as ``encode-weights`` and
            ``encode-activations`` have it.

    """

    name: ClassVar[str] = "shift-and-scale"
    effect: ClassVar[Effect] = Effect.EXACT
    steps: int = 16
    shift: bool = True
    kinds: tuple[FoldKind, ...] = FOLD_KINDS
    paid: bool = True
    gain: float = 1.0
    bits: Literal[2, 3, 4, 5, 6, 7, 8] = 8

    def needs(self, module: GraphModule) -> Iterable[Need]:
        """Ask for ranges by channel and for sampled rows of what the layers read."""
        return needs_of(module, self.kinds, paid=self.paid)

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave a site alone where no threshold makes the error smaller."""
        fold_best(module, ctx, self.kinds, self._candidates, paid=self.paid, gain=self.gain, bits=self.bits)

    def _candidates(self, samples: list[Sample], shift: bool) -> Iterable[Candidate]:
        return thresholds(samples, self.steps, shift=shift and self.shift)
