"""Modules as text: ONNX's text format, and what is known and decided in comment lines above it.

``docs/graph-text.md`` describes the form.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.errors import ModelError
from onnxq.ir.digest import tensor_digest
from onnxq.ir.external import read_embedded
from onnxq.ir.knowledge import NamedDecision, facts_on, note_facts, note_for_all, note_own
from onnxq.ir.module import GraphModule, name_of
from onnxq.ir.notes import Fields, WeightNote, decision_fields, facts_fields, note_line, notes_in, quoted
from onnxq.ir.sealing import is_writable_tensor, seal, unseal
from onnxq.reading import UnreadableError, untrusted

_DIGEST_DIGITS = 16
_PRINTED_AS = {
    ir.DataType.FLOAT16: ir.DataType.FLOAT,
    ir.DataType.BFLOAT16: ir.DataType.FLOAT,
    ir.DataType.INT2: ir.DataType.INT8,
    ir.DataType.UINT2: ir.DataType.UINT8,
    ir.DataType.INT4: ir.DataType.INT8,
    ir.DataType.UINT4: ir.DataType.UINT8,
    ir.DataType.FLOAT8E4M3FN: ir.DataType.FLOAT,
    ir.DataType.FLOAT4E2M1: ir.DataType.FLOAT,
}
"""Types whose numbers ONNX text shows as bits or not at all, and the wider type we print instead."""


def render(
    module: GraphModule, *, elide_above: int | None = None, types: bool = True, facts: bool = True
) -> str:
    """Return the module as text; ``parse`` reads it back exactly, but for what is elided.

    Args:
        module: Any module.
        elide_above: Weights of the main graph with more elements than this are shown by digest
            and range, and histograms and rows of facts with more entries left out; None keeps all.
        types: Whether to show the types of values inside the graph.
        facts: Whether to show facts.

    """
    copy = module.model.clone()
    lines: list[str] = []
    elided: list[ir.Value] = []
    for name, value in list(copy.graph.initializers.items()):
        tensor = value.const_value
        if tensor is None:
            continue
        if elide_above is not None and tensor.size > elide_above and _has_range(tensor):
            lines.append(note_line("weight", name, _elided_fields(tensor)))
            elided.append(copy.graph.initializers.pop(name))
        elif tensor.dtype in _PRINTED_AS:
            lines.append(note_line("weight", name, {"dtype": tensor.dtype.name.lower()}))
            _widen(value, tensor)
        elif not is_writable_tensor(tensor.dtype.value, tensor.size):
            proto = ir.to_proto(tensor).SerializeToString().hex()
            lines.append(note_line("weight", name, {"dtype": tensor.dtype.name.lower(), "proto": proto}))
            copy.graph.initializers.pop(name)
    lines += [
        note_line("fact", name, fields)
        for name, known in sorted(module.facts().items() if facts else ())
        for fields in facts_fields(known, elide_above)
    ]
    lines += [note_line("encode", one.value, decision_fields(one)) for one in module.named_decisions()]
    proto = _shown(copy, elided, types=types)
    lines += [note_line(kind, name, fields) for kind, name, fields in seal(proto)]
    _plain_names([*proto.graph.node, *(node for function in proto.functions for node in function.node)])
    return "\n".join([*lines, f"{_tidy(onnx.printer.to_text(proto))}\n"])


def parse(text: str) -> GraphModule:
    """Return the module that ``text`` shows.

    A weight that is elided becomes seeded random numbers of its dtype, shape and range. A node
    without a name is called like its first output.

    Raises:
        ModelError: The text is no such module; what and in which line.

    """
    try:
        with untrusted():
            module = _parsed(text.split("\n"))  # names may hold other ends of lines
            _require_sources(module.graph)
            module.model.clone()  # fails where a node reads what is computed later, or in another scope
            return module
    except UnreadableError as error:
        raise ModelError(f"this is not ONNX text: {error}") from error


def _parsed(lines: list[str]) -> GraphModule:
    notes = list(notes_in(lines))
    graph = "\n".join("" if line.startswith("#") else line for line in lines)
    try:
        proto = onnx.parser.parse_model(graph)
    except onnx.parser.ParseError as error:
        raise ModelError(f"this is not ONNX text: {_reason(error)}") from error
    unseal(proto, notes)
    _fill_in(proto, {name: note for kind, name, note in notes if kind == "weight"})
    model = ir.from_proto(proto)
    read_embedded(model)
    for node in model.graph.all_nodes():
        node.name = node.name or name_of(node.outputs[0])
    module = GraphModule(model)
    _attach(module, [(kind, name, content) for kind, name, content in notes if kind in ("encode", "fact")])
    return module


def _attach(module: GraphModule, notes: Sequence[tuple[str, str, Any]]) -> None:
    """Put facts and decisions on the values and nodes of these names."""
    values = module.by_name()
    for kind, name, content in notes:
        if name not in values:
            raise ModelError("the graph has no such value", where=f"# {kind} {quoted(name)}")
        if kind == "fact":
            known = facts_on(values[name])
            note_facts(values[name], content if known is None else known.and_also(content))
        elif content.readers is None:
            note_for_all(values[name], content.encoding)
        else:
            _attach_to_readers(values[name], content)


def _attach_to_readers(value: ir.Value, decision: NamedDecision) -> None:
    uses = [use for use in value.uses() if use.node.name in (decision.readers or ())]
    for name in sorted((decision.readers or frozenset()) - {use.node.name for use in uses}):
        raise ModelError(f"node {name!r} does not read it", where=f"# encode {quoted(decision.value)}")
    for use in uses:
        note_own(use.node, use.idx, decision.encoding)


def _require_sources(graph: ir.Graph) -> None:
    """Raise where a node reads what nothing computes."""
    for node in graph.all_nodes():
        for value in node.inputs:
            known = value is None or value.producer() or value.is_graph_input() or value.is_initializer()
            if not known:
                raise ModelError(
                    f"it reads {name_of(value)!r}, which nothing computes", where=f"node {node.name!r}"
                )


def _shown(model: ir.Model, elided: list[ir.Value], *, types: bool) -> onnx.ModelProto:
    """Return the model to print; elided weights stand among the types, without numbers."""
    proto = ir.to_proto(model)
    kept = [] if not types else [v for v in proto.graph.value_info if v.name not in model.graph.initializers]
    inputs = {value.name for value in proto.graph.input}
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(ir.to_proto(v) for v in elided if v.name not in inputs)
    proto.graph.value_info.extend(v for v in kept if v.name not in {e.name for e in elided})
    return proto


def _plain_names(nodes: Iterable[onnx.NodeProto]) -> None:
    """Clear names that onnx prints and cannot parse: those of tensors and graphs in attributes."""
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        attribute.t.ClearField("name")
        for graph in (attribute.g, *attribute.graphs):
            graph.name = attribute.name
            constants = {tensor.name for tensor in graph.initializer}
            shown = [value for value in graph.value_info if value.name not in constants]
            del graph.value_info[:]
            graph.value_info.extend(shown)
            _plain_names(graph.node)


def _tidy(text: str) -> str:
    """Put the header on one line and take out doubled and trailing blanks."""
    header, brace, body = text.partition("\n>\n")
    header = _outside_quotes(r"(?<=<)\s+|\s+$", "", header)
    header = _outside_quotes(r"\s+", " ", header)
    body = _outside_quotes(r"[ ]+$", "", body)
    body = _outside_quotes(r"(?<= =)  (?=\{)", " ", body)
    return _outside_quotes(r"(?<=>)\n(?=\n)", "", f"{header}{brace.strip()}\n{body.rstrip()}")


def _outside_quotes(pattern: str, by: str, text: str) -> str:
    """Replace a pattern wherever it does not lie in quoted text."""
    found = re.compile(rf'"(?:[^"\\]|\\.)*"|{pattern}', re.MULTILINE)
    return found.sub(lambda match: match[0] if match[0].startswith('"') else by, text)


def _has_range(tensor: ir.TensorProtocol) -> bool:
    return tensor.dtype.is_floating_point() or tensor.dtype.is_integer()


def _elided_fields(tensor: ir.TensorProtocol) -> Fields:
    numbers = tensor.numpy().astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    digest = tensor_digest(tensor)[:_DIGEST_DIGITS]
    return {"dtype": tensor.dtype.name.lower(), "low": low, "high": high, "sha256": digest}


def _widen(value: ir.Value, tensor: ir.TensorProtocol) -> None:
    wide = _PRINTED_AS[tensor.dtype]
    value.const_value = ir.Tensor(tensor.numpy().astype(wide.numpy()), name=value.name)
    value.type = ir.TensorType(wide)


def _fill_in(proto: onnx.ModelProto, notes: dict[str, WeightNote]) -> None:
    """Put elided weights in, and give widened ones their own type back."""
    graph = proto.graph
    declared = {value.name: value for value in (*graph.value_info, *graph.input)}
    printed = {tensor.name: tensor for tensor in graph.initializer}
    for name, note in notes.items():
        if note.proto is not None:
            graph.initializer.append(onnx.TensorProto.FromString(note.proto))
        elif name in printed:
            narrow = onnx.numpy_helper.to_array(printed[name]).astype(note.dtype.numpy())
            printed[name].CopyFrom(onnx.numpy_helper.from_array(narrow, name))
            for value in (*graph.input, *graph.output):
                if value.name == name:
                    value.type.tensor_type.elem_type = printed[name].data_type
        elif name in declared and note.sha256 is not None:
            shape = [dim.dim_value for dim in declared[name].type.tensor_type.shape.dim]
            numbers = _stand_in(note, int(note.sha256, 16), shape)
            graph.initializer.append(onnx.numpy_helper.from_array(numbers, name))
        else:
            raise ModelError("the graph has no such weight", where=f"# weight {quoted(name)}")


def _stand_in(note: WeightNote, seed: int, shape: list[int]) -> NDArray[Any]:
    """Return random numbers of the elided weight's range."""
    numbers = np.random.default_rng(seed).uniform(note.low, note.high, shape)
    rounded = np.rint(numbers) if note.dtype.is_integer() else numbers
    return rounded.astype(note.dtype.numpy())


def _reason(error: onnx.parser.ParseError) -> str:
    (message,) = error.args
    return " ".join((message.decode() if isinstance(message, bytes) else str(message)).split())
