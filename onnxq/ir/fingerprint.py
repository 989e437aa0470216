"""Fingerprints: short names for what computes a value, whatever anything is called.

Two values with one fingerprint hold the same numbers on the same inputs: operator, attributes and the
fingerprints of what is read agree, down to the bytes of the weights and the names of the graph's inputs.

Two values with one future have the same gradients too: what is computed of them agrees as well, up to what is
differentiated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import onnx
import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from onnxq.ir.digest import attribute_text, function_text, tensor_digest
from onnxq.ir.module import is_standard, name_of

Fingerprints = dict[ir.Value, str]


def fingerprints(model: ir.Model) -> Fingerprints:
    """Return the fingerprint of every value of the main graph, 64 hexadecimal digits each.

    A node counts with the version of the operator set in which its operator last changed, so that raising
    the set of a model leaves alone what means the same.
    """
    found = {value: _of_root(value) for value in _roots(model.graph)}
    for node in model.graph:
        text = _node_text(node, model, found)
        for index, value in enumerate(node.outputs):
            found[value] = _digest(f"{text} output {index}")
    return found


def futures(model: ir.Model, ends: Mapping[ir.Value, str]) -> Fingerprints:
    """Return a fingerprint of what computes each value of the main graph, and of what is computed of it.

    Args:
        model: The model.
        ends: What is differentiated, each with a text that tells how.

    """
    known = fingerprints(model)
    reads: dict[ir.Value, list[str]] = {value: [f"end {text}"] for value, text in ends.items()}
    found: Fingerprints = {}

    def future(value: ir.Value) -> str:
        if value not in found:
            found[value] = _digest(" ".join([known[value], *sorted(reads.get(value, ()))]))
        return found[value]

    for node in reversed(model.graph):
        text = " ".join([_node_text(node, model, known), "becomes", *map(future, node.outputs)])
        told = _digest(text)
        for index, value in enumerate(node.inputs):
            if value is not None:
                reads.setdefault(value, []).append(f"{told} input {index}")
        for name, value in _captured_values(node, known):
            reads.setdefault(value, []).append(f"{told} captured {name}")
    return {value: future(value) for value in known}


def _roots(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()


def _of_root(value: ir.Value) -> str:
    if value.is_graph_input() or value.const_value is None:
        return _digest(f"input {value.name} {value.type}")
    return tensor_digest(value.const_value)


def _node_text(node: ir.Node, model: ir.Model, known: Fingerprints) -> str:
    attributes = [f"{name}={attribute_text(attr)}" for name, attr in sorted(node.attributes.items())]
    inputs = [_known(value, known) for value in node.inputs]
    return " ".join([_operator(node, model), *attributes, "reads", *inputs, *_captured(node, known)])


def _known(value: ir.Value | None, known: Fingerprints) -> str:
    return "nothing" if value is None else known[value]


def _operator(node: ir.Node, model: ir.Model) -> str:
    """Return what the node computes of its inputs: a function counts with its content."""
    function = model.functions.get(node.op_identifier())
    if function is not None:
        return function_text(function)
    version = model.opset_imports.get(node.domain, 0)
    if is_standard(node) and onnx.defs.has(node.op_type, max_inclusive_version=version):
        version = onnx.defs.get_schema(node.op_type, max_inclusive_version=version).since_version
    return f"{node.domain}.{node.op_type}.{version} {len(node.outputs)}"


def _captured(node: ir.Node, known: Fingerprints) -> Iterator[str]:
    """Yield, with their names, the fingerprints of what a node's subgraphs read of the main graph."""
    yield from (f"{name}={known[value]}" for name, value in _captured_values(node, known))


def _captured_values(node: ir.Node, known: Fingerprints) -> Iterator[tuple[str, ir.Value]]:
    """Yield, with their names, the values of the main graph that a node's subgraphs read."""
    for attr in node.attributes.values():
        for graph in _subgraphs(attr):
            read = {value for inner in RecursiveGraphIterator(graph) for value in inner.inputs}
            read |= set(graph.outputs)
            yield from sorted((name_of(value), value) for value in read if value in known)


def _subgraphs(attr: ir.Attr) -> tuple[ir.Graph, ...]:
    if attr.type == ir.AttributeType.GRAPH:
        return (attr.as_graph(),)
    return tuple(attr.as_graphs()) if attr.type == ir.AttributeType.GRAPHS else ()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
