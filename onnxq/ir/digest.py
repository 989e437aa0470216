"""Digests: short names for the exact content of graphs and weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar
from weakref import WeakKeyDictionary

import onnx_ir as ir

from onnxq.ir.module import GraphModule, name_of
from onnxq.ir.stored import StoredTensor

_tensor_digests: WeakKeyDictionary[ir.TensorProtocol, str] = WeakKeyDictionary()


_PLAIN = frozenset(
    {
        ir.AttributeType.FLOAT,
        ir.AttributeType.FLOATS,
        ir.AttributeType.INT,
        ir.AttributeType.INTS,
        ir.AttributeType.STRING,
        ir.AttributeType.STRINGS,
    }
)
"""The types of attributes that are numbers and texts, or tuples of some."""

TensorName = Callable[[ir.TensorProtocol], str]
"""Returns what tells a tensor from others."""
Form = TypeVar("Form", bound=Hashable)
NodeForm = Callable[[ir.Node], Form]
"""Returns what tells a node from others."""


def graph_digest(module: GraphModule, *, decisions: bool = True) -> str:
    """Return the SHA-256 of graph, weights and, if wanted, decisions, as 64 hexadecimal digits.

    Metadata and documentation do not count. A tensor is hashed once, as tensors do not change.
    """
    decided = _decision_lines(module) if decisions else ()
    return _of_lines((*_lines(module, tensor_digest, _node_line), *decided))


def graph_state(module: GraphModule) -> tuple[Hashable, ...]:
    """Return what the digest is made of, decisions too: quickly, as it is asked for after every pass.

    Weights in files count by their place, unread.
    """
    return (*_lines(module, _tensor_state, _node_state), *_decision_lines(module))


def changed_nodes(
    module: GraphModule, before: tuple[Hashable, ...], now: tuple[Hashable, ...]
) -> list[ir.Node] | None:
    """Return the nodes of the main graph that are not as they were; None if operator sets are others too.

    Args:
        module: The module.
        before: Its state as it was, see ``graph_state``.
        now: Its state as it is.

    """
    first, known = 1 + len(module.graph.inputs) + len(module.graph.initializers), set(before)
    changed = [node for node, state in zip(module.graph, now[first:], strict=False) if state not in known]
    return changed if now[0] == before[0] else None


def _of_lines(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode())
        digest.update(b"\n")
    return digest.hexdigest()


def _lines(module: GraphModule, named: TensorName, told: NodeForm[Form]) -> Iterator[str | Form]:
    yield f"opsets {sorted(module.model.opset_imports.items())} ir {module.model.ir_version}"
    yield from _graph_lines(module.graph, named, told)
    for _, function in sorted(module.model.functions.items()):
        yield function_text(function)


def _decision_lines(module: GraphModule) -> Iterator[str]:
    for decision in module.named_decisions():
        encoding = decision.encoding
        readers = None if decision.readers is None else sorted(decision.readers)
        yield f"encode {decision.value} {encoding.grid} {encoding.form} {readers}"


def function_text(function: ir.Function) -> str:
    """Return the content of a function as text."""
    return "\n".join([f"function {function.identifier()}", *map(_node_line, function)])


def _graph_lines(graph: ir.Graph, named: TensorName, told: NodeForm[Form]) -> Iterator[str | Form]:
    for value in graph.inputs:
        yield f"input {value.name} {value.type} {value.shape}"
    for name, value in sorted(graph.initializers.items()):
        yield f"initializer {name} {named(value.const_value) if value.const_value else None}"
    yield from map(told, graph)
    for value in graph.outputs:
        yield f"output {value.name} {value.type} {value.shape}"


def _node_line(node: ir.Node) -> str:
    attributes = [f"{name}={attribute_text(attr)}" for name, attr in sorted(node.attributes.items())]
    inputs, outputs = [name_of(v) for v in node.inputs], [name_of(v) for v in node.outputs]
    return f"node {node.domain}.{node.op_type}.{node.overload} {node.name} {inputs} {outputs} {attributes}"


def _node_state(node: ir.Node) -> Hashable:
    """Return the same as numbers and names, which takes a fraction of the time of a line."""
    attributes = [(attr.name, attr.type, _attribute_state(attr)) for attr in node.attributes.values()]
    inputs, outputs = tuple(map(name_of, node.inputs)), tuple(map(name_of, node.outputs))
    return node.domain, node.op_type, node.overload, node.name, inputs, outputs, tuple(attributes)


def _attribute_state(attr: ir.Attr) -> Hashable:
    plain = attr.type in _PLAIN and not attr.is_ref()
    return attr.value if plain else attribute_text(attr)


def attribute_text(attr: ir.Attr) -> str:
    """Return an attribute's value as text; tensors and graphs by digest."""
    if attr.type == ir.AttributeType.GRAPH:
        return _subgraph_digest(attr.as_graph())
    if attr.type == ir.AttributeType.GRAPHS:
        return " ".join(map(_subgraph_digest, attr.as_graphs()))
    if attr.type == ir.AttributeType.TENSOR:
        return tensor_digest(attr.as_tensor())
    return str(attr.ref_attr_name if attr.is_ref() else attr.value)


def _subgraph_digest(graph: ir.Graph) -> str:
    """Return a short name for a subgraph, so that a line does not grow with the depth of the nesting."""
    return hashlib.sha256("\n".join(_graph_lines(graph, tensor_digest, _node_line)).encode()).hexdigest()


def tensor_digest(tensor: ir.TensorProtocol) -> str:
    """Return the SHA-256 of dtype, shape and bytes of one tensor."""
    if tensor not in _tensor_digests:
        digest = hashlib.sha256(f"{tensor.dtype} {tensor.shape}".encode())
        text = tensor.dtype == ir.DataType.STRING
        digest.update(repr(tensor.numpy().tolist()).encode() if text else tensor.tobytes())
        _tensor_digests[tensor] = digest.hexdigest()
    return _tensor_digests[tensor]


def _tensor_state(tensor: ir.TensorProtocol) -> str:
    """Return what tells a tensor from others while the files that hold weights stay as they are."""
    if type(tensor) is ir.Tensor:  # as most are; asking what else it might be takes longer
        return tensor_digest(tensor)
    if isinstance(tensor, StoredTensor):
        encoding = tensor.encoding
        return f"{_tensor_state(tensor.weight)} as {encoding.grid} {encoding.form}"
    if isinstance(tensor, ir.ExternalTensor):
        return f"{tensor.dtype} {tensor.shape} at {tensor.offset} of {tensor.path}"
    return tensor_digest(tensor)
