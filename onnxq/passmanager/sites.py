"""What passes share that fold scales into fold sites: what to measure, and the choice of the best."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from onnxq.analysis.endpoints import Consumer
from onnxq.analysis.sites import Site, find_sites
from onnxq.ir.module import GraphModule, array_of, is_standard, name_of, rank_of
from onnxq.passmanager.base import PassContext
from onnxq.passmanager.memo import Memo, content_of
from onnxq.quant.facts import Kind, Need
from onnxq.quant.migration import Candidate, Choice, Sample, best_of
from onnxq.quant.statistics import ChannelRange, Rows
from onnxq.rewrite.fold import fold

FoldKind = Literal["norm", "linear", "relu", "value", "activation"]
FOLD_KINDS: tuple[FoldKind, ...] = get_args(FoldKind)
"""The kinds of sites in front of layers."""

ROWS = 128
"""So many of the sampled rows tell two choices apart well enough; all of them take four times as long."""

STATS: frozenset[Kind] = frozenset({ChannelRange, Rows})


def sites_of(module: GraphModule, kinds: Collection[str], *, paid: bool) -> Iterator[Site]:
    """Yield the sites of these kinds before layers whose weight is a matrix.

    Args:
        module: The graph.
        kinds: Keys of ``onnxq.analysis.sites.KINDS``.
        paid: Whether a site may cost a node.

    """
    for site in find_sites(module):
        matrices = site.consumers and all(map(_is_matrix, site.consumers))
        if site.kind in kinds and matrices and (paid or not site.paid):
            yield site


def needs_of(module: GraphModule, kinds: Collection[str], *, paid: bool) -> Iterator[Need]:
    """Yield what ``fold_best`` reads: channel ranges and rows of each value before the layers."""
    for site in sites_of(module, kinds, paid=paid):
        for place in site.inputs:
            yield Need(name_of(place.value), STATS, place.channels.axes[-1])


def fold_best(
    module: GraphModule,
    ctx: PassContext,
    kinds: Collection[str],
    candidates: Callable[[list[Sample], bool], Iterable[Candidate]],
    *,
    paid: bool,
    gain: float,
    bits: int = 8,
) -> None:
    """Fold into each site the candidate whose layers' outputs have the smallest error.

    Values of kind ``activation`` are never shifted. Centring the outputs of Gelu made each layer's error
    smaller and all-MiniLM-L6-v2 worse: a pooled cosine of .9938 with shifts and .9961 without, when only
    these sites were folded, and .9940 when none was.

    Args:
        module: The graph.
        ctx: Where edits and remarks go.
        kinds: Keys of ``onnxq.analysis.sites.KINDS``.
        candidates: Returns scales and shifts for the samples of a site; the flag tells whether a shift is
            possible there.
        paid: Whether a site may cost a node.
        gain: How many decibels of error a site that costs a node has to bring.
        bits: What the layers' inputs and weights will be quantized to.

    """
    for site in sites_of(module, kinds, paid=paid):
        node = site.consumers[0].layer.node
        samples = samples_of(site, module, bits)
        if samples is None:
            ctx.skip(node, "its input never had an element, or holds infinities")
            continue
        shift = site.shift and site.kind != "activation"
        best = _best(samples, list(candidates(samples, shift)), ctx.memo)
        if best is None:
            ctx.skip(node, "its error is smallest as it is")
        elif site.paid and best.gain < gain:
            ctx.skip(node, f"{best.label} would bring {best.gain:.1f} dB and cost a Mul")
        else:
            why = f"{site.kind} site, {best.label}: error {best.gain:.1f} dB smaller"
            fold(site, best.scale, ctx.edit, shift=best.shift, why=why)


def _best(samples: Sequence[Sample], candidates: Sequence[Candidate], memo: Memo) -> Choice | None:
    read = [array for one in samples for array in (one.rows, one.low, one.high, *one.weights)]
    tried = [part for _, *parts in candidates for part in parts if part is not None]
    key = "best fold", samples[0].bits, content_of(*read), content_of(*tried)
    return memo.of(key, lambda: best_of(samples, candidates))


def samples_of(site: Site, module: GraphModule, bits: int) -> list[Sample] | None:
    """Return one sample for each value that layers of the site read; None if one was never seen."""
    samples = []
    for place in site.inputs:
        facts, axis = module.measured(place.value), place.channels.axes[-1]
        sampled, reach = facts.get(Rows, axis), facts.get(ChannelRange, axis)
        if sampled is None or reach is None or not np.isfinite([reach.low, reach.high]).all():
            return None
        readers = [one for one in site.consumers if one.layer.activation is place.value]
        weights = [_matrix(one) for one in readers]
        rows = sampled.values[:: -(-len(sampled.values) // ROWS)]
        samples.append(Sample(rows, reach.low, reach.high, weights, bits))
    return samples


def _is_matrix(consumer: Consumer) -> bool:
    return is_standard(consumer.layer.node, "Gemm", "MatMul") and rank_of(consumer.layer.weight) == 2


def _matrix(consumer: Consumer) -> NDArray[np.float32]:
    """Return the weight with the channels that it reads first."""
    weight: NDArray[np.float32] = array_of(consumer.layer.weight)
    return weight if consumer.weight.channels.axis == -2 else weight.T
