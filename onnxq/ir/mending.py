"""What ONNX Runtime takes in a model and onnx's checker does not, said as ONNX wants it.

Nodes in any order, imports that are missing, weights that are no inputs before IR version 4, and the first
GroupNormalization, which ONNX withdrew. Nothing of it changes what a model computes.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator, MutableSequence, Sequence
from typing import Any

import onnx

from onnxq.ir.protos import all_graphs, inner_graphs

WEIGHTS_ALONE = 4
"""The first IR version in which a weight need not be an input."""
GROUPS_SCALED = range(18, 21)
"""The operator sets whose GroupNormalization has a scale and a bias for each group, not for each channel."""


def mend(model: onnx.ModelProto) -> bool:
    """Say in place as ONNX wants it what ONNX Runtime takes otherwise, and tell whether there was any."""
    graphs = list(all_graphs(model.graph))
    bodies = [graph.node for graph in graphs] + [function.node for function in model.functions]
    return any(
        [
            _free_weights(model),
            _import_domains(model, graphs),
            *[sort_nodes(nodes) for nodes in bodies],
            *[_spell_groups(graph) for graph in graphs if _opset(model) in GROUPS_SCALED],
        ]
    )


def is_stated(model: onnx.ModelProto) -> bool:
    """Tell whether each tensor among inputs and outputs has a type and a number of axes, as ONNX asks for.

    ONNX Runtime finds those of outputs itself, and takes what comes for inputs.
    """
    return all(_form(value) is None for value in (*model.graph.input, *model.graph.output))


def checkable(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of which onnx's checker tells what is wrong with the nodes.

    Weights in data files are empty, as it would look for the files; what is not stated of inputs and outputs
    is made up.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for form in filter(None, map(_form, (*copy.graph.input, *copy.graph.output))):
        form.elem_type = form.elem_type or onnx.TensorProto.FLOAT
        form.shape.SetInParent()
    for tensor in copy.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            tensor.CopyFrom(onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=[0]))
    return copy


def _form(value: onnx.ValueInfoProto) -> onnx.TypeProto.Tensor | None:
    """Return what is said of a tensor where that is not all; None where it is, or the value is no tensor."""
    tensor = value.type.tensor_type
    unknown = value.type.WhichOneof("value") is None
    lacking = value.type.HasField("tensor_type") and not (tensor.elem_type and tensor.HasField("shape"))
    return tensor if unknown or lacking else None


def _free_weights(model: onnx.ModelProto) -> bool:
    listed = {value.name for value in model.graph.input}
    free = any(tensor.name not in listed for tensor in model.graph.initializer)
    if not free or model.ir_version != WEIGHTS_ALONE - 1:
        return False
    model.ir_version = WEIGHTS_ALONE
    return True


def _import_domains(model: onnx.ModelProto, graphs: Sequence[onnx.GraphProto]) -> bool:
    """Import what nodes are of: in the newest form of each operator, as ONNX Runtime does.

    A model that imports nothing at all is refused by ONNX Runtime, too.
    """
    imported = {_domain(one.domain) for one in model.opset_import}
    used: dict[str, set[str]] = defaultdict(set)
    for node in (node for graph in graphs for node in graph.node):
        used[_domain(node.domain)].add(node.op_type)
    missing = sorted(used.keys() - imported) if imported else []
    for domain in missing:
        newest = [onnx.defs.get_schema(op, domain).since_version for op in used[domain] if _has(op, domain)]
        model.opset_import.append(onnx.helper.make_opsetid(domain, max(newest, default=1)))
    return bool(missing)


def _has(op_type: str, domain: str) -> bool:
    return bool(onnx.defs.has(op_type, domain=domain))


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _opset(model: onnx.ModelProto) -> int:
    return next((one.version for one in model.opset_import if _domain(one.domain) == ""), 0)


def sort_nodes(nodes: MutableSequence[onnx.NodeProto]) -> bool:
    """Put nodes behind those that they read, and else leave them in their order; circles stay as they are."""
    made = {name: place for place, node in enumerate(nodes) for name in node.output if name}
    read = [{made[name] for name in _reads(node) if name in made} for node in nodes]
    if all(max(before, default=-1) < place for place, before in enumerate(read)):
        return False
    order = _order(read)
    if len(order) < len(nodes):
        return False
    copies = [nodes[place] for place in order]
    del nodes[:]
    nodes.extend(copies)
    return True


def _order(read: Sequence[set[int]]) -> list[int]:
    """Return places so that each stands behind those it reads, the first that can stand somewhere first."""
    readers: dict[int, list[int]] = defaultdict(list)
    for place, before in enumerate(read):
        for one in before:
            readers[one].append(place)
    waiting = [len(before) for before in read]
    ready, order = [place for place, count in enumerate(waiting) if not count], list[int]()
    while ready:
        order.append(heapq.heappop(ready))
        for reader in readers[order[-1]]:
            waiting[reader] -= 1
            if not waiting[reader]:
                heapq.heappush(ready, reader)
    return order


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Yield what a node reads, and what graphs inside it read."""
    yield from filter(None, node.input)
    for graph in inner_graphs(node):
        yield from (value.name for value in graph.output)
        for inner in graph.node:
            yield from _reads(inner)


def _spell_groups(graph: onnx.GraphProto) -> bool:
    """Normalize groups as channels of as many elements: InstanceNormalization has a scale for each."""
    nodes = [part for node in graph.node for part in _by_channels(node)]
    if len(nodes) == len(graph.node):
        return False
    del graph.node[:]
    graph.node.extend(nodes)
    return True


def _by_channels(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    if node.op_type != "GroupNormalization" or _domain(node.domain):
        return [node]
    given = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    (x, scale, bias), (y,) = node.input, node.output
    made: Any = onnx.helper.make_node
    return [
        made("Constant", [], [f"{y}_grouped_shape"], value_ints=[0, given["num_groups"], -1]),
        made("Reshape", [x, f"{y}_grouped_shape"], [f"{y}_grouped"]),
        made(
            "InstanceNormalization",
            [f"{y}_grouped", scale, bias],
            [f"{y}_normalized"],
            node.name,
            epsilon=given.get("epsilon", 1e-5),
        ),
        made("Shape", [x], [f"{y}_shape"]),
        made("Reshape", [f"{y}_normalized", f"{y}_shape"], [y]),
    ]
