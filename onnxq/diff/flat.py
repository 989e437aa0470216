"""A model laid flat: all nodes in the order in which they compute, and how they hang together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from onnxq.ir.constants import lift_constants
from onnxq.ir.inference import infer_all
from onnxq.ir.module import input_of

QUANTIZERS = frozenset({"QuantizeLinear", "DynamicQuantizeLinear"})
CONVERTERS = QUANTIZERS | {"DequantizeLinear"}

_FAMILIES = {
    "MatMul": "MatMul Gemm FusedMatMul FusedGemm MatMulInteger MatMulIntegerToFloat QLinearMatMul QGemm "
    "MatMulNBits DynamicQuantizeMatMul",
    "Conv": "Conv FusedConv NhwcFusedConv ConvInteger QLinearConv",
    "ConvTranspose": "ConvTranspose",
    "Attention": "Attention QAttention MultiHeadAttention",
    "Gather": "Gather GatherBlockQuantized",
    "Add": "Add Sum QLinearAdd",
    "Gelu": "Gelu BiasGelu FastGelu QuickGelu",
    "LayerNormalization": "LayerNormalization SkipLayerNormalization",
}
_FAMILY_OF = {op_type: name for name, ops in _FAMILIES.items() for op_type in ops.split()}

COMMUTATIVE = frozenset({"Add", "And", "Equal", "Max", "Mean", "Min", "Mul", "Or", "Sum", "Xor"})


def family_of(node: ir.Node) -> str:
    """Return what the node computes, whatever kernel it asks for: a QLinearConv is a Conv."""
    return _FAMILY_OF.get(node.op_type, node.op_type)


def is_product(node: ir.Node) -> bool:
    """Tell whether the node is a matrix product or a convolution, in any form."""
    return family_of(node) in ("MatMul", "Conv", "ConvTranspose")


@dataclass(frozen=True, eq=False)
class Flat:
    """The nodes of a model and of its subgraphs, those of a subgraph before the node that holds it.

    Args:
        model: The model, its Constant nodes lifted to initializers.
        nodes: In an order in which they can compute.
        place: Where each node stands in ``nodes``.
        readers: The nodes that read a value, in order.

    """

    model: ir.Model
    nodes: tuple[ir.Node, ...]
    place: Mapping[ir.Node, int]
    readers: Mapping[ir.Value, tuple[ir.Node, ...]]

    @classmethod
    def of(cls, model: ir.Model) -> Flat:
        """Lay ``model`` flat; it stays as it is."""
        lifted = infer_all(lift_constants(model.clone()))
        nodes = tuple(_walk(lifted.graph))
        readers: dict[ir.Value, list[ir.Node]] = defaultdict(list)
        for node in nodes:
            for value in dict.fromkeys(node.inputs):
                if value is not None:
                    readers[value].append(node)
        return cls(
            model=lifted,
            nodes=nodes,
            place={node: number for number, node in enumerate(nodes)},
            readers={value: tuple(found) for value, found in readers.items()},
        )

    @property
    def inputs(self) -> list[ir.Value]:
        """The model's inputs without weights that are listed among them."""
        return [value for value in self.model.graph.inputs if value.const_value is None]

    @property
    def outputs(self) -> list[ir.Value]:
        """The model's outputs."""
        return list(self.model.graph.outputs)

    @property
    def constants(self) -> list[ir.Value]:
        """Every initializer that a node reads, in the order of first use."""
        read = (value for node in self.nodes for value in node.inputs if value is not None)
        return [value for value in dict.fromkeys(read) if value.const_value is not None]

    def values(self) -> Iterator[ir.Value]:
        """Yield the inputs and what nodes make, in order."""
        yield from self.inputs
        for node in self.nodes:
            yield from (value for value in node.outputs if value.name)

    def real_readers(self, value: ir.Value) -> Iterator[ir.Node]:
        """Yield the nodes that read ``value``, those too that read its quantized form."""
        for node in self.readers.get(value, ()):
            if node.op_type in CONVERTERS:
                yield from self.real_readers(node.outputs[0])
            else:
                yield node


def unconverted(value: ir.Value) -> ir.Value:
    """Return the value that ``value`` is the quantized or dequantized form of, or itself."""
    node = value.producer()
    while node is not None and node.op_type in CONVERTERS and value is node.outputs[0]:
        origin = input_of(node, 0)
        if origin is None:
            break
        value = origin
        node = value.producer()
    return value


def computed_inputs(node: ir.Node) -> list[ir.Value]:
    """Return what the node reads of other nodes and of the model's inputs, before it was quantized.

    Scales and zero points that are computed at run time are left out: they belong to the quantizer.
    """
    found = []
    for value in node.inputs:
        if value is None or value.const_value is not None or is_parameter(value):
            continue
        origin = unconverted(value)
        if origin.const_value is None:
            found.append(origin)
    return list(dict.fromkeys(found))


def is_parameter(value: ir.Value) -> bool:
    """Tell whether the value is a scale or zero point that a DynamicQuantizeLinear gives."""
    node = value.producer()
    return node is not None and node.op_type == "DynamicQuantizeLinear" and value is not node.outputs[0]


def _walk(graph: ir.Graph) -> Iterator[ir.Node]:
    for node in graph:
        for inner in subgraphs(node):
            yield from _walk(inner)
        yield node


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the graphs among the node's attributes."""
    for attr in node.attributes.values():
        if attr.type == ir.AttributeType.GRAPH:
            yield attr.as_graph()
        elif attr.type == ir.AttributeType.GRAPHS:
            yield from attr.as_graphs()
