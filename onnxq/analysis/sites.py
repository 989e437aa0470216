"""Fold sites: places where a scale or a shift of each channel can move without changing the function.

At a site, some constants make the channels of a value (a normalization's scale, a layer's weight and bias),
and linear layers read them. Dividing the first by ``s`` and multiplying the second by ``s`` along the axis
that meets the channels changes nothing but the numbers in between: ``x' = (x - z) / s``. Whoever else reads
these numbers gets ``x' * s + z``, which costs a node or two.

Source: the equalization of Nagel et al., 2019, arXiv:1906.04721; for normalizations, Xiao et al., 2022,
arXiv:2211.10438, and with a shift Wei et al., 2023, arXiv:2304.09145.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import onnx_ir as ir

from onnxq.analysis.channels import Channels, Operand, step
from onnxq.analysis.endpoints import (
    Consumer,
    Factor,
    Kind,
    Place,
    Source,
    consumer_at,
    factor_at,
    input_channels,
    reads_score,
    source_of,
)
from onnxq.analysis.layers import linear_layers
from onnxq.ir.module import GraphModule, input_of, is_float, is_standard, name_of

KINDS: dict[Kind, str] = {
    "norm": "a normalization's scale and bias, before linear layers",
    "linear": "a linear layer before linear layers",
    "relu": "a linear layer before linear layers, with what lets positive factors pass between",
    "value": "the value projection of attention, before the output projection",
    "query-key": "the query projection against the key projection",
    "activation": "any value before linear layers: a Mul is added",
}
"""What makes the channels at each kind of site, and what reads them."""

SHAPE_READERS = ("Shape", "Size")

LONGEST = 64
"""Through so many operators in a row channels are followed; who reads them behind gets the old numbers."""


@dataclass(frozen=True)
class Site:
    """One place where the channels of a value can be scaled, and perhaps shifted.

    Args:
        kind: A key of ``KINDS``.
        source: What the first of the folded constants computes together: the channels as they are made.
        scaled: The constants that are divided by the scale where the channels are made.
        offset: The constant that the shift is subtracted from, and that is then divided too.
        places: The values in which the channels pass on; they stand for other numbers after a fold.
        addends: Constants that are added on the way.
        consumers: The layers that read them.
        factors: Constants that multiply them, as an earlier fold left them.
        others: Values of ``places`` with readers that need the old numbers: nodes, or None for the
            model's output.
        keys: For ``query-key``, the key projection, whose channels are multiplied.
        shift: Whether the channels may be shifted.

    """

    kind: Kind
    source: Place
    scaled: tuple[Operand, ...] = ()
    offset: Operand | None = None
    places: tuple[Place, ...] = ()
    addends: tuple[Operand, ...] = ()
    consumers: tuple[Consumer, ...] = ()
    factors: tuple[Factor, ...] = ()
    others: tuple[tuple[Place, ir.Node | None], ...] = ()
    keys: Site | None = None
    shift: bool = False

    @property
    def count(self) -> int:
        """How many channels there are."""
        return self.source.channels.count

    @property
    def paid(self) -> bool:
        """Whether a fold adds nodes that run."""
        return bool(self.others) or self.kind == "activation"

    @property
    def inputs(self) -> list[Place]:
        """What the consumers read."""
        by_value = {place.value: place for place in self.places}
        return list(dict.fromkeys(by_value[consumer.layer.activation] for consumer in self.consumers))

    def to_dict(self) -> dict[str, Any]:
        """Return what it is as plain values."""
        return {
            "kind": self.kind,
            "value": name_of(self.source.value),
            "channels": self.count,
            "shift": self.shift,
            "paid": self.paid,
            "layers": [consumer.layer.node.name for consumer in self.consumers],
            "others": [None if node is None else node.name for _, node in self.others],
        }


def find_sites(module: GraphModule) -> list[Site]:
    """Return the sites of the main graph in its order; no value belongs to two of them.

    A site whose constants or values are encoded already is none any more. Values that linear layers read
    and that belong to no other site make sites of kind ``activation``. Dead nodes count as readers.
    """
    walks = [_walk(source) for node in module.graph if (source := source_of(node)) is not None]
    found = [walk.site() for walk in walks if walk.consumers]
    found += _query_keys([walk for walk in walks if walk.feeds_one_score])
    taken = {place.value for site in found for place in site.places}
    found += [site for site in _activations(module) if site.source.value not in taken]
    order = {node: number for number, node in enumerate(module.graph)}
    usable = [site for site in found if not (_clashes(site) or _is_encoded(site, module))]
    return sorted(usable, key=lambda site: _position(site, order))


def _position(site: Site, order: Mapping[ir.Node, int]) -> int:
    producer = site.source.value.producer()
    return -1 if producer is None else order[producer]


def _clashes(site: Site) -> bool:
    """Tell whether a node reads the channels in two ways at once."""
    wanting = {node for _, node in site.others}
    passing = {place.value.producer() for place in site.places[1:]}
    return bool(wanting & (passing | {consumer.layer.node for consumer in site.consumers}))


def _is_encoded(site: Site, module: GraphModule) -> bool:
    """Tell whether encodings are decided for what a fold would change."""
    operands = [*_operands(site), *(_operands(site.keys) if site.keys else ())]
    changed = [input_of(operand.node, operand.index) for operand in operands]
    changed += [place.value for part in (site, site.keys) if part for place in part.places]
    return any(map(module.is_encoded, changed))


def _operands(site: Site) -> list[Operand]:
    consumed = [part for one in site.consumers for part in (one.weight, one.bias) if part is not None]
    factors = [part for one in site.factors for part in (one.factor, one.offset) if part is not None]
    offset = [] if site.offset is None else [site.offset]
    return [*site.scaled, *offset, *site.addends, *consumed, *factors]


@dataclass
class _Walk:
    """Follows the channels from where they are made to all who read them."""

    source: Source
    places: list[Place] = field(default_factory=list)
    addends: list[Operand] = field(default_factory=list)
    consumers: list[Consumer] = field(default_factory=list)
    factors: list[Factor] = field(default_factory=list)
    scores: list[tuple[Place, ir.Node, int]] = field(default_factory=list)
    others: list[tuple[Place, ir.Node | None]] = field(default_factory=list)
    passed: set[str] = field(default_factory=set)
    shift: bool = True
    depth: int = 0

    @property
    def feeds_one_score(self) -> bool:
        """Whether a product of queries and keys is all that reads the channels."""
        return len(self.scores) == 1 and not (self.consumers or self.factors or self.others)

    def follow(self, place: Place) -> None:
        """Take in ``place`` and everything behind it, as far as the channels pass."""
        self.places.append(place)
        if place.value.is_graph_output():
            self.others.append((place, None))
        for use in sorted(place.value.uses(), key=lambda use: (use.node.name or "", use.idx)):
            if use.node.graph is not place.value.producer().graph:  # type: ignore[union-attr]
                self.others.append((place, use.node))
            elif not is_standard(use.node, *SHAPE_READERS):
                self._read(place, use.node, use.idx)

    def _read(self, place: Place, node: ir.Node, index: int) -> None:
        consumer = consumer_at(node, index, place.channels)
        factor = factor_at(node, index, place.channels)
        if consumer is not None:
            self.consumers.append(consumer)
            self.shift &= consumer.bias is not None
        elif factor is not None:
            self.factors.append(factor)
            self.shift &= factor.offset is not None
        elif reads_score(node, index, place.channels):
            self.scores.append((place, node, index))
        elif not self._pass(place, node, index):
            self.others.append((place, node))

    def _pass(self, place: Place, node: ir.Node, index: int) -> bool:
        """Go on behind ``node`` if the channels pass it, and layers or scores read them there."""
        passed = step(node, index, place.channels)
        if passed is None or not is_float(node.outputs[0]) or self.depth == LONGEST:
            return False
        ahead = _Walk(self.source, depth=self.depth + 1)
        ahead.follow(Place(node.outputs[0], passed.channels))
        if not (ahead.consumers or ahead.scores):
            return False
        for name in ("places", "addends", "consumers", "factors", "scores", "others"):
            getattr(self, name).extend(getattr(ahead, name))
        self.addends += [passed.operand] if passed.operand else []
        self.passed |= ahead.passed | {node.op_type}
        self.shift &= ahead.shift and passed.shift
        return True

    def site(self) -> Site:
        """Return the site; a product of queries and keys reads the old numbers."""
        return Site(
            kind=self._kind(),
            source=self.source.place,
            scaled=(self.source.scaled, *self.source.more),
            offset=self.source.offset,
            places=tuple(self.places),
            addends=tuple(self.addends),
            consumers=tuple(self.consumers),
            factors=tuple(self.factors),
            others=(*self.others, *((place, node) for place, node, _ in self.scores)),
            shift=self.shift and self.source.offset is not None,
        )

    def _kind(self) -> Kind:
        if self.source.kind != "linear" or not self.passed:
            return self.source.kind
        if self.passed & {"Attention", "MatMul"}:
            return "value"
        return "relu" if self.passed & {"LeakyRelu", "PRelu", "Relu"} else "linear"


def _walk(source: Source) -> _Walk:
    walk = _Walk(source)
    if source.before is not None:
        walk.places.append(source.before)
    walk.follow(source.place)
    return walk


def _query_keys(walks: Sequence[_Walk]) -> Iterator[Site]:
    """Pair the projections whose product is taken, if their channels meet one by one."""
    by_score = {(walk.scores[0][1], walk.scores[0][2]): walk for walk in walks}
    for (node, index), walk in by_score.items():
        keys = by_score.get((node, 1)) if index == 0 else None
        if keys is not None and _met(node, walk.scores[0][0].channels) == keys.scores[0][0].channels:
            yield replace(
                walk.site(), kind="query-key", others=(), keys=replace(keys.site(), others=()), shift=False
            )


def _met(node: ir.Node, queries: Channels) -> Channels:
    """Return where the key's channels have to lie."""
    if is_standard(node, "Attention"):
        return queries
    return Channels((*queries.axes[:-1], -2), queries.dims)


def _activations(module: GraphModule) -> Iterator[Site]:
    """Yield a site for each value that layers read, with all of these layers."""
    by_value: dict[ir.Value, list[Consumer]] = {}
    for layer in linear_layers(module):
        channels = input_channels(layer)
        consumer = None if channels is None else consumer_at(layer.node, 0, channels)
        if consumer is not None:
            by_value.setdefault(layer.activation, []).append(consumer)
    for value, consumers in by_value.items():
        first = input_channels(consumers[0].layer)
        if first is not None and len({input_channels(one.layer) for one in consumers}) == 1:
            place, shift = Place(value, first), all(one.bias is not None for one in consumers)
            yield Site("activation", place, places=(place,), consumers=tuple(consumers), shift=shift)
