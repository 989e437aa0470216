"""Which kernel computed each layer of the model that was compiled.

ONNX Runtime keeps the name of a value as long as something still computes it, and onnxq does too. So a node
of the optimised graph computes what lies, in the source, between the values it gives and the nearest values
that other nodes give. Where a value was renamed, the node's name is asked; where that is ONNX Runtime's own
too, the node counts to what reads it.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from onnxq.runtime.profile import KernelNode, Kind, kind_of
from onnxq.runtime.unfused import why_unfused
from onnxq.runtime.wiring import CONVERTERS, MOVERS, Wiring, own_name

if TYPE_CHECKING:
    import onnx

_OF_QUANTIZER = "_quantized"
"""What onnxruntime.quantization appends to the names of integer values."""
_OF_FOLDS = re.compile(r"(_folded(_\d+)?)+$")
"""What onnxq's folds append to the names of values whose channels they scale."""
_GATHERS = frozenset({"Gather", "GatherBlockQuantized"})
_PRODUCTS = frozenset({Kind.INTEGER, Kind.WEIGHT_ONLY, Kind.FLOAT})
_LAYERS_OF_INTEGERS = frozenset({"QLinearConv", "QLinearMatMul"})


class LayerState(StrEnum):
    """How a layer of the source was run."""

    INTEGER = "integer"
    """In an integer kernel."""
    WEIGHT_ONLY = "weight-only"
    """With integer weights and float inputs."""
    UNFUSED = "unfused"
    """In float on values dequantized at run time: slower than if nothing were quantized."""
    FLOAT = "float"
    """In float."""
    ELSEWHERE = "elsewhere"
    """On another provider than asked for."""
    GONE = "gone"
    """Not at all: its result is a constant, or nothing needs it."""


@dataclass(frozen=True)
class LayerKernel:
    """One layer of the source and what ran it.

    Args:
        name: The node in the source, or its output if it has no name.
        op_type: Its operator there.
        state: How it ran.
        kernels: The operators that ran it, in order.
        share: Their part of the time of all nodes, 0 to 1; a kernel that ran several layers is
            split evenly.
        overhead: The part of the QuantizeLinear and DequantizeLinear nodes that serve it.
        reason: Why it is unfused, if it is and that is known.

    """

    name: str
    op_type: str
    state: LayerState
    kernels: tuple[str, ...]
    share: float
    overhead: float
    reason: str | None = None


@dataclass(frozen=True)
class Provenance:
    """Where the time goes, by layers of the source.

    Args:
        layers: Every matrix product, convolution, attention, recurrent layer and look-up in a table.
        untraced: Nodes that ran under names of ONNX Runtime's own; each counts to what reads it.

    """

    layers: tuple[LayerKernel, ...] = ()
    untraced: int = 0

    @property
    def states(self) -> dict[LayerState, int]:
        """How many layers ran in each way; 0 is listed too."""
        counts = Counter(layer.state for layer in self.layers)
        return {state: counts[state] for state in LayerState}

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence for each reason why layers stayed unfused."""
        groups: dict[tuple[str, str], list[str]] = defaultdict(list)
        for layer in self.layers:
            if layer.state is LayerState.UNFUSED:
                groups[layer.op_type, layer.reason or "the reason is not known"].append(layer.name)
        return tuple(_warning(op_type, reason, names) for (op_type, reason), names in groups.items())

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, the derived ones too."""
        return {
            "states": {state.value: count for state, count in self.states.items()},
            "layers": [asdict(layer) for layer in self.layers],
            "untraced": self.untraced,
            "warnings": list(self.warnings),
        }


def _warning(op_type: str, reason: str, names: Sequence[str]) -> str:
    """Name the first three layers; the table has all."""
    shown = ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{op_type} {shown}: in float on values dequantized in each run, slower than unquantized: {reason}"


@dataclass(frozen=True)
class Models:
    """The same model at three stages.

    Args:
        source: What the user exported.
        model: What was run; the source itself where nothing was compiled.
        optimised: What ONNX Runtime made of it.
        optimizes: Whether the session optimises far enough for integer kernels.

    """

    source: Wiring
    model: Wiring
    optimised: Wiring
    optimizes: bool = True


def trace(models: Models, executed: Sequence[KernelNode], provider: str) -> Provenance:
    """Return which of the ``executed`` nodes ran each layer of the source.

    Args:
        models: The source, the model and its optimised graph.
        executed: What ran, by the names of the optimised graph.
        provider: Where it was to run, by ONNX Runtime's name.

    """
    ran = {node.name: node for node in executed}
    places = {id(node): _values(node, models) for node in models.optimised.nodes}
    named = {key for key, values in places.items() if values}
    for node in reversed(models.optimised.nodes):
        if id(node) not in named and node.op_type not in CONVERTERS:
            places[id(node)] = _values_of_readers(node, models.optimised, places)
    claims = _claims(models, places)
    costs = _Costs(models.optimised, ran, claims)
    layers = [_layer(node, claims.get(id(node)), costs, models, provider) for node in _layers(models.source)]
    strangers = (
        node
        for node in models.optimised.nodes
        if node.name in ran and id(node) not in named and node.op_type not in CONVERTERS
    )
    return Provenance(tuple(layers), sum(1 for _ in strangers))


def _values(node: onnx.NodeProto, models: Models) -> frozenset[str]:
    """Return the source's values that ``node`` computes, by its outputs or else by its name."""
    names = list(node.output)
    found = [_source_value(name, models) for name in names]
    if not any(found):
        kin = models.model.ancestor(node)
        found = [_source_value(name, models) for name in (kin.output if kin else [own_name(node)])]
    return frozenset(filter(None, found))


def _source_value(name: str, models: Models) -> str | None:
    """Return the source's value that ``name`` is, or that it is the quantized form of."""
    for plain in (name.removesuffix(_OF_QUANTIZER), _OF_FOLDS.sub("", name)):
        if plain in models.source.producers:
            return plain
    while name not in models.source.producers:
        node = models.model.producers.get(name)
        if node is None or node.op_type not in CONVERTERS:
            return None
        name = _OF_FOLDS.sub("", node.input[0])
    return name


def _values_of_readers(
    node: onnx.NodeProto, optimised: Wiring, places: Mapping[int, frozenset[str]]
) -> frozenset[str]:
    return frozenset().union(*(places[id(reader)] for reader in optimised.consumers(node)))


def _claims(models: Models, places: Mapping[int, frozenset[str]]) -> dict[int, list[onnx.NodeProto]]:
    """Return, for each layer of the source, the nodes of the optimised graph that ran it."""
    stops = frozenset().union(*places.values())
    makers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in models.optimised.nodes:
        for value in places[id(node)]:
            makers[value].append(node)
    layers = {id(node): node for node in _layers(models.source)}
    found: dict[int, dict[int, onnx.NodeProto]] = defaultdict(dict)
    for value, nodes in makers.items():
        for key in _between(value, stops, models.source) & layers.keys():
            found[key].update({id(node): node for node in nodes if _runs(node, layers[key])})
    return _paired({key: found[key] for key in layers if found[key]})


def _between(value: str, stops: frozenset[str], source: Wiring) -> set[int]:
    """Return the nodes of the source that lead to ``value`` from the nearest of ``stops``."""
    waiting, seen = [source.producers[value]], set()
    while waiting:
        node = waiting.pop()
        seen.add(id(node))
        inner = (name for name in node.input if name not in stops)
        before = (source.producers[name] for name in inner if name in source.producers)
        waiting += [one for one in before if id(one) not in seen]
    return seen


def _runs(node: onnx.NodeProto, layer: onnx.NodeProto) -> bool:
    """Tell whether a kernel like ``node`` can have run such a layer."""
    if layer.op_type in _GATHERS:
        return node.op_type in _GATHERS
    return _is_product(node)


def _paired(found: Mapping[int, dict[int, onnx.NodeProto]]) -> dict[int, list[onnx.NodeProto]]:
    """Give each layer a kernel of its own where as many kernels as layers were found together."""
    groups: dict[frozenset[int], list[int]] = defaultdict(list)
    for layer, kernels in found.items():
        groups[frozenset(kernels)].append(layer)
    paired = {layer: list(nodes.values()) for layer, nodes in found.items()}
    for layers in groups.values():
        nodes = paired[layers[0]]
        if len(layers) == len(nodes) > 1:
            paired.update({layer: [node] for layer, node in zip(layers, nodes, strict=True)})
    return paired


class _Costs:
    """What each node of the optimised graph took, and what serves it."""

    def __init__(
        self,
        optimised: Wiring,
        ran: Mapping[str, KernelNode],
        claims: Mapping[int, Sequence[onnx.NodeProto]],
    ) -> None:
        self.ran = ran
        self.optimised = optimised
        self.claimants = Counter(id(node) for nodes in claims.values() for node in nodes)
        self.overheads: dict[int, float] = defaultdict(float)
        for node in optimised.nodes:
            if node.op_type in CONVERTERS and node.name in ran:
                served = self._served(node)
                for one in served:
                    self.overheads[one] += ran[node.name].share / len(served)

    def share(self, node: onnx.NodeProto) -> float:
        """Return what the node took for each of its layers."""
        ran = self.ran.get(node.name)
        return 0.0 if ran is None else ran.share / self.claimants[id(node)]

    def overhead(self, node: onnx.NodeProto) -> float:
        """Return what serves the node for each of its layers."""
        return self.overheads[id(node)] / self.claimants[id(node)]

    def _served(self, node: onnx.NodeProto) -> set[int]:
        """Return the kernels that read what ``node`` converts, or else the one that made it."""
        return self._reached(node, self.optimised.consumers) or self._reached(node, self.optimised.feeders)

    def _reached(
        self, start: onnx.NodeProto, step: Callable[[onnx.NodeProto], Iterable[onnx.NodeProto]]
    ) -> set[int]:
        waiting: list[onnx.NodeProto] = [start]
        found: set[int] = set()
        seen: set[int] = set()
        while waiting:
            for node in step(waiting.pop()):
                if id(node) in self.claimants:
                    found.add(id(node))
                elif node.op_type in CONVERTERS | MOVERS and id(node) not in seen:
                    seen.add(id(node))
                    waiting.append(node)
        return found


def _layer(
    node: onnx.NodeProto,
    kernels: Sequence[onnx.NodeProto] | None,
    costs: _Costs,
    models: Models,
    provider: str,
) -> LayerKernel:
    name = node.name or node.output[0]
    if not kernels:
        return LayerKernel(name, node.op_type, LayerState.GONE, (), 0.0, 0.0)
    main = max(kernels, key=costs.share)
    state = _state(main, costs.ran.get(main.name), models.optimised, provider)
    unfused = state is LayerState.UNFUSED
    return LayerKernel(
        name=name,
        op_type=node.op_type,
        state=state,
        kernels=tuple(kernel.op_type for kernel in kernels),
        share=sum(map(costs.share, kernels)),
        overhead=sum(map(costs.overhead, kernels)),
        reason=why_unfused(main, models.optimised, models.model, models.optimizes) if unfused else None,
    )


def _state(node: onnx.NodeProto, ran: KernelNode | None, optimised: Wiring, provider: str) -> LayerState:
    if ran is not None and ran.provider != provider:
        return LayerState.ELSEWHERE
    kind = kind_of(node.op_type)
    if kind in (Kind.INTEGER, Kind.WEIGHT_ONLY):
        return LayerState(kind.value)
    if any(_is_dequantized(name, optimised) for name in node.input):
        return LayerState.UNFUSED
    if node.op_type == "Gather" and _is_read_as(node, "DequantizeLinear", optimised):
        return LayerState.WEIGHT_ONLY
    return LayerState.FLOAT


def _is_dequantized(name: str, wiring: Wiring) -> bool:
    origin = wiring.origin(name)
    return origin is not None and origin.op_type == "DequantizeLinear"


def _is_read_as(node: onnx.NodeProto, op_type: str, wiring: Wiring) -> bool:
    return any(reader.op_type == op_type for reader in wiring.consumers(node))


def _layers(source: Wiring) -> Iterator[onnx.NodeProto]:
    for node in source.nodes:
        if _is_product(node) or (node.op_type == "Gather" and _reads_a_table(node, source)):
            yield node


def _is_product(node: onnx.NodeProto) -> bool:
    elementwise = node.op_type.startswith("QLinear") and node.op_type not in _LAYERS_OF_INTEGERS
    return kind_of(node.op_type) in _PRODUCTS and not elementwise


def _reads_a_table(node: onnx.NodeProto, source: Wiring) -> bool:
    origin = source.origin(node.input[0])
    table = origin.input[0] if origin is not None and origin.op_type == "DequantizeLinear" else node.input[0]
    return len(source.weights.get(table, (0, ()))[1]) >= 2
