"""What ONNX text has no form for: sealed, as the bytes of its protobuf message, in comment lines.

A node is sealed whole, with its subgraphs; the text then shows its operator and its values without the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from math import prod

import onnx
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]

from onnxq.errors import ModelError
from onnxq.ir.notes import Fields, quoted

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
_UNWRITABLE = frozenset(
    {
        onnx.TensorProto.COMPLEX64,
        onnx.TensorProto.COMPLEX128,
        onnx.TensorProto.INT4,
        onnx.TensorProto.UINT4,
        onnx.TensorProto.INT2,
        onnx.TensorProto.UINT2,
        onnx.TensorProto.FLOAT4E2M1,
    }
)
_A = onnx.AttributeProto


def seal(model: onnx.ModelProto) -> Iterator[tuple[str, str, Fields]]:
    """Take out of ``model`` what text cannot hold, and yield kind, name and fields of a line for each."""
    for entry in [entry for entry in model.metadata_props if not _is_one_line(entry)]:
        yield "metadata", entry.key, {"text": (entry.value,)}
        model.metadata_props.remove(entry)
    for function in [function for function in model.functions if not _is_plain_function(function)]:
        yield "function", f"{function.domain}.{function.name}", {"proto": function.SerializeToString().hex()}
        model.functions.remove(function)
    for node in model.graph.node:
        if not _is_plain(node):
            yield "node", _key(node), {"proto": node.SerializeToString().hex()}
            del node.attribute[:]
            node.op_type = re.sub(r"\W", "_", f"_{node.op_type}", flags=re.ASCII).removeprefix("_") or "_"
            node.op_type = node.op_type if _IDENTIFIER.fullmatch(node.op_type) else f"_{node.op_type}"
            node.domain = node.domain if _is_domain(node.domain) else ""


def unseal(model: onnx.ModelProto, lines: Iterable[tuple[str, str, object]]) -> None:
    """Put back what ``seal`` took out.

    Raises:
        ModelError: A line holds no such message, or the graph has no such node.

    """
    nodes = {_key(node): node for node in model.graph.node}
    for kind, name, content in lines:
        if kind == "metadata":
            model.metadata_props.add(key=name, value=str(content))
        elif kind == "function":
            _read(model.functions.add(), kind, name, content)
        elif kind == "node" and name in nodes:
            _read(nodes[name], kind, name, content)
        elif kind == "node":
            raise ModelError("no node of the graph computes it", where=f"# node {quoted(name)}")


def _read(message: Message, kind: str, name: str, content: object) -> None:
    try:
        message.ParseFromString(content)
    except DecodeError as error:
        raise ModelError("this is no protobuf message", where=f"# {kind} {quoted(name)}") from error


def _key(node: onnx.NodeProto) -> str:
    """Return what tells the node apart: its first output."""
    return next(filter(None, node.output), "")


def _is_one_line(entry: onnx.StringStringEntryProto) -> bool:
    text = f"{entry.key} {entry.value}"
    return text.isprintable() and " ".join(text.split()) == text


def _is_plain_function(function: onnx.FunctionProto) -> bool:
    named = _IDENTIFIER.fullmatch(function.name) is not None and _is_domain(function.domain)
    return named and not function.attribute_proto and all(map(_is_plain, function.node))


def _is_domain(domain: str) -> bool:
    return all(map(_IDENTIFIER.fullmatch, domain.split("."))) if domain else True


def _is_plain(node: onnx.NodeProto) -> bool:
    named = _IDENTIFIER.fullmatch(node.op_type) is not None and _is_domain(node.domain)
    return named and all(map(_is_writable, node.attribute))


def is_writable_tensor(data_type: int, size: int) -> bool:
    """Tell whether text has a form for the numbers of a tensor in an attribute or a subgraph."""
    return data_type not in _UNWRITABLE and (size > 0 or data_type != onnx.TensorProto.STRING)


def _is_writable(attribute: onnx.AttributeProto) -> bool:
    if _IDENTIFIER.fullmatch(attribute.name) is None:
        return False
    if attribute.type in (_A.TENSORS, _A.GRAPHS, _A.SPARSE_TENSOR, _A.SPARSE_TENSORS, _A.TYPE_PROTOS):
        return False
    if attribute.type == _A.TENSOR:
        return _holds(attribute.t)
    if attribute.type == _A.GRAPH:
        return all(map(_holds, attribute.g.initializer)) and all(map(_is_plain, attribute.g.node))
    if attribute.type == _A.STRINGS:
        return len(attribute.strings) > 0 and all(map(_is_text, attribute.strings))
    return _is_text(attribute.s)


def _holds(tensor: onnx.TensorProto) -> bool:
    return is_writable_tensor(tensor.data_type, prod(tensor.dims))


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
