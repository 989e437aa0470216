"""Maps, which onnx_ir has no type for: nodes that make or read them wait beside the graph.

``ZipMap`` stands at the end of what skl2onnx and its kin write, ``CastMap`` and ``DictVectorizer`` at the
beginning. In their place the graph gives and takes the tensors that they read and make; when the model is
written, they are put back, so that whoever runs it sees maps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableSequence
from typing import Any

import onnx
import onnx_ir as ir

from onnxq.ir.mending import checkable, sort_nodes

ML = "ai.onnx.ml"
MAKES_MAPS, READS_MAPS = ("ZipMap",), ("CastMap", "DictVectorizer")
ASIDE = "onnxq_aside"
"""Where a graph's ``meta`` keeps the nodes, with the interface and the imports of the whole model."""


def set_aside(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Take the nodes whose values hold maps out of the model, and return them; None if there are none."""
    graph = model.graph
    maps = {value.name for value in (*graph.input, *graph.output) if _holds_map(value.type)}
    if not maps:
        return None
    nodes = list(_around(graph, maps))
    aside = onnx.ModelProto(
        opset_import=model.opset_import,
        graph=onnx.GraphProto(node=nodes, input=graph.input, output=graph.output),
    )
    types = {**_from_maps(graph, nodes), **_types(model)}
    read, made = ({name for node in nodes for name in names(node)} - maps for names in (_inputs, _outputs))
    _replace(graph.node, [node for node in graph.node if node not in nodes])
    _replace(graph.value_info, [value for value in graph.value_info if value.name not in maps])
    _become(graph.input, maps, made - read, types)
    _become(graph.output, maps, read - made - {tensor.name for tensor in graph.initializer}, types)
    return aside


def put_back(model: onnx.ModelProto, aside: onnx.ModelProto) -> None:
    """Put the nodes back, and the inputs and outputs in their order; others than the model's own come last.

    A graph that gives no more what they read is another one, and stays as it is.
    """
    graph, nodes = model.graph, list(aside.graph.node)
    made = {name for node in nodes for name in _outputs(node)}
    read = {name for node in nodes for name in _inputs(node)}
    read -= made | {value.name for value in aside.graph.input}
    if not read <= {value.name for value in graph.output} | {tensor.name for tensor in graph.initializer}:
        return
    _replace(graph.node, [*nodes, *graph.node])
    sort_nodes(graph.node)
    _restore(graph.input, aside.graph.input, made)
    _restore(graph.output, aside.graph.output, read)
    imported = {one.domain for one in model.opset_import}
    model.opset_import.extend(one for one in aside.opset_import if one.domain not in imported)


def note_aside(model: ir.Model, aside: onnx.ModelProto | None) -> None:
    """Let the model know what waits beside it."""
    if aside is not None:
        model.graph.meta[ASIDE] = aside


def aside_of(model: ir.Model) -> onnx.ModelProto | None:
    """Return what waits beside the model."""
    found: onnx.ModelProto | None = model.graph.meta.get(ASIDE)
    return found


def _around(graph: onnx.GraphProto, maps: set[str]) -> Iterable[onnx.NodeProto]:
    """Yield the nodes that make or read maps, and put the names of all maps into ``maps``."""
    for node in graph.node:
        kind = node.op_type if node.domain == ML else ""
        if kind in MAKES_MAPS or not maps.isdisjoint(node.input):
            maps.update(() if kind in READS_MAPS else node.output)
            yield node


def _holds_map(kind: onnx.TypeProto) -> bool:
    return kind.HasField("map_type") or (
        kind.HasField("sequence_type") and _holds_map(kind.sequence_type.elem_type)
    )


def _from_maps(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> Mapping[str, onnx.ValueInfoProto]:
    """Return what tensors hold that are made of maps: what the maps hold, of any shape."""
    held = {value.name: value.type.map_type.value_type for value in graph.input}
    return {
        node.output[0]: onnx.ValueInfoProto(name=node.output[0], type=held[node.input[0]])
        for node in nodes
        if node.op_type in READS_MAPS and node.input[0] in held
    }


def _types(model: onnx.ModelProto) -> Mapping[str, onnx.ValueInfoProto]:
    found = onnx.shape_inference.infer_shapes(checkable(model)).graph
    return {value.name: value for value in (*found.value_info, *found.input, *found.output)}


def _become(
    values: MutableSequence[Any],
    maps: set[str],
    others: set[str],
    types: Mapping[str, onnx.ValueInfoProto],
) -> None:
    """Let others stand among inputs or outputs for those that are maps."""
    kept = [value for value in values if value.name not in maps]
    new = sorted(others - {value.name for value in kept})
    _replace(values, [*kept, *(types.get(name, onnx.ValueInfoProto(name=name)) for name in new)])


def _restore(
    values: MutableSequence[Any], original: Iterable[onnx.ValueInfoProto], stood_in: set[str]
) -> None:
    current = {value.name: value for value in values}
    listed = [current.pop(value.name, value) for value in original]
    _replace(values, [*listed, *(value for name, value in current.items() if name not in stood_in)])


def _replace(values: MutableSequence[Any], new: Iterable[onnx.ValueInfoProto]) -> None:
    copies = list(new)
    del values[:]
    values.extend(copies)


def _inputs(node: onnx.NodeProto) -> Iterable[str]:
    return filter(None, node.input)


def _outputs(node: onnx.NodeProto) -> Iterable[str]:
    return filter(None, node.output)
