"""Move outliers of activations into the weights that read them.

Before: ``x = LayerNormalization(r, gamma, beta); y = MatMul(x, w)``. After: ``x' = LayerNormalization(r,
gamma / s, beta / s); y = MatMul(x', w * s)``, with ``s_j = max|x_j|^alpha / max|w_j|^(1 - alpha)``. Whoever
else reads ``x`` gets ``x' * s``. It stands behind the passes that tidy and fuse and a ``remove-dead``, since
dead nodes would count as readers, and in front of those that encode.

Sources: Xiao et al., 2022, arXiv:2211.10438 (SmoothQuant); alpha is chosen for each site here. Wei et al.,
2023, arXiv:2304.09145 (thresholds, of Outlier Suppression+).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar, Literal

import numpy as np

from onnxq.ir.module import GraphModule
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.passmanager.sites import FOLD_KINDS, FoldKind, fold_best, needs_of
from onnxq.quant.facts import Need
from onnxq.quant.migration import Candidate, Sample, smoothings, thresholds


@dataclass(frozen=True)
class Smooth(Pass):
    """Scale the channels of each fold site whose layers then have the smaller error.

    Options:
        alpha: How much of the difficulty the weights take, from 0 to 1; none: searched for each site.
        steps: How many values of alpha are tried, from 0 to 1.
        thresholds: How many scales of ``shift-and-scale`` are tried besides, with which channels shrink only
            as far as they reach beyond a threshold.
        kinds: The kinds of sites: see ``onnxq inspect --sites``.
        paid: Whether to use sites that cost a Mul at run time.
        gain: How many decibels a site that costs something has to bring.
        bits: What weights and activations will be quantized to, as ``encode-weights`` and
            ``encode-activations`` have it.

    """

    name: ClassVar[str] = "smooth"
    effect: ClassVar[Effect] = Effect.EXACT
    alpha: float | None = None
    steps: int = 11
    thresholds: int = 0
    kinds: tuple[FoldKind, ...] = FOLD_KINDS
    paid: bool = True
    gain: float = 1.0
    bits: Literal[2, 3, 4, 5, 6, 7, 8] = 8

    def needs(self, module: GraphModule) -> Iterable[Need]:
        """Ask for ranges by channel and for sampled rows of what the layers read."""
        return needs_of(module, self.kinds, paid=self.paid)

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave a site alone where no scale makes the error smaller."""
        fold_best(module, ctx, self.kinds, self._candidates, paid=self.paid, gain=self.gain, bits=self.bits)

    def _candidates(self, samples: list[Sample], shift: bool) -> Iterable[Candidate]:
        alphas = np.linspace(0, 1, self.steps) if self.alpha is None else [self.alpha]
        smooth = smoothings(samples, map(float, alphas))
        return chain(smooth, thresholds(samples, self.thresholds, shift=False))
