"""Who makes and who reads each value of a model, its subgraphs laid flat."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxq.ir.protos import all_graphs, walk

if TYPE_CHECKING:
    import onnx

QUANTIZERS = frozenset({"QuantizeLinear", "DynamicQuantizeLinear"})
CONVERTERS = QUANTIZERS | {"DequantizeLinear"}
MOVERS = frozenset(
    {"Cast", "Flatten", "Identity", "MaxPool", "NhwcMaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
)
"""Operators that hand on what they read, in another shape, order or type."""

_SUFFIXES = re.compile(r"(_token_\d+|_nchwc|/duplicated|/\w+Fusion/?)+$")
"""What ONNX Runtime appends to the name of a node that it makes from another."""


def own_name(node: onnx.NodeProto) -> str:
    """Return the node's name without what ONNX Runtime appended."""
    return _SUFFIXES.sub("", node.name)


@dataclass(frozen=True)
class Wiring:
    """A model's nodes with their subgraphs' nodes, and how they hang together.

    Args:
        nodes: All of them, an inner one behind the node that holds it.
        named: The node of a name.
        producers: The node that makes a value.
        readers: The nodes that read a value.
        weights: The type and the shape of each initializer.
        outputs: The model's outputs.

    """

    nodes: tuple[onnx.NodeProto, ...]
    named: Mapping[str, onnx.NodeProto]
    producers: Mapping[str, onnx.NodeProto]
    readers: Mapping[str, tuple[onnx.NodeProto, ...]]
    weights: Mapping[str, tuple[int, tuple[int, ...]]]
    outputs: frozenset[str]

    @classmethod
    def of(cls, graph: onnx.GraphProto) -> Wiring:
        """Return the wiring of a graph."""
        graphs = list(all_graphs(graph))
        nodes = tuple(walk(graph))
        readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in nodes:
            for name in dict.fromkeys(filter(None, node.input)):
                readers[name].append(node)
        return cls(
            nodes=nodes,
            named={node.name: node for node in nodes if node.name},
            producers={name: node for node in nodes for name in node.output if name},
            readers={name: tuple(found) for name, found in readers.items()},
            weights={one.name: (one.data_type, tuple(one.dims)) for g in graphs for one in g.initializer},
            outputs=frozenset(value.name for value in graph.output),
        )

    def ancestor(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """Return the node here that ONNX Runtime made ``node`` of, as far as its name tells."""
        return self.named.get(own_name(node))

    def consumers(self, node: onnx.NodeProto) -> tuple[onnx.NodeProto, ...]:
        """Return the nodes that read what ``node`` makes."""
        return tuple(reader for name in node.output for reader in self.readers.get(name, ()))

    def feeders(self, node: onnx.NodeProto) -> tuple[onnx.NodeProto, ...]:
        """Return the nodes whose values ``node`` reads."""
        return tuple(self.producers[name] for name in node.input if name in self.producers)

    def origin(self, name: str) -> onnx.NodeProto | None:
        """Return the node that made this value's content, before it was only moved about."""
        node = self.producers.get(name)
        while node is not None and node.op_type in MOVERS:
            node = self.producers.get(node.input[0])
        return node


def without_weights(graph: onnx.GraphProto) -> onnx.GraphProto:
    """Return a copy of all that ``Wiring`` looks at: protobuf holds a message as long as any part of it."""
    import onnx

    weights = (onnx.TensorProto(name=w.name, data_type=w.data_type, dims=w.dims) for w in graph.initializer)
    return onnx.GraphProto(node=graph.node, initializer=weights, output=graph.output)
