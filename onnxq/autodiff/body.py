"""What ONNX defines an operator by: other operators, whose gradients make up its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import onnx
import onnx_ir as ir

from onnxq.autodiff.inferred import infer
from onnxq.ir.module import is_standard, name_of
from onnxq.rewrite.builder import Builder


@dataclass(frozen=True)
class Body:
    """An operator once more, by its definition.

    Args:
        nodes: What computes it, in order.
        outputs: Those of ``nodes`` that are the operator's, in its order; None for those left out.

    """

    nodes: tuple[ir.Node, ...]
    outputs: tuple[ir.Value | None, ...]


def body_of(node: ir.Node, op: Builder) -> Body | None:
    """Build a node's definition, which reads what the node does; None if ONNX defines it by words alone."""
    module = op.writer.module
    proto = _definition(node, module.opset)
    if proto is None:
        return None
    values: dict[str, ir.Value | None] = {
        **dict.fromkeys(proto.input),
        **dict(zip(proto.input, node.inputs, strict=False)),
    }
    outputs = list(proto.output)[: len(node.outputs)]
    del proto.output[:]  # an output that is left out may have no maker, which onnx_ir does not read
    function = ir.serde.deserialize_function(proto)
    nodes = [built for one in function for built in _build(one, values, node, op)]
    infer(module.model)
    return Body(tuple(nodes), tuple(values.get(name) for name in outputs))


def _definition(node: ir.Node, opset: int) -> onnx.FunctionProto | None:
    if not is_standard(node) or not onnx.defs.has(node.op_type, max_inclusive_version=opset):
        return None
    schema: Any = onnx.defs.get_schema(node.op_type, opset)
    of_types = schema.context_dependent_function_opset_versions
    if at := [version for version in of_types if version <= opset]:
        read = [ir.serde.serialize_value(v).type.SerializeToString() if v else b"" for v in node.inputs]
        proto = ir.serde.serialize_node(node).SerializeToString()
        found = schema.get_context_dependent_function_with_opset_version(max(at), proto, read)
    elif at := [version for version in schema.function_opset_versions if version <= opset]:
        found = schema.get_function_with_opset_version(max(at))
    else:
        return None
    return cast(onnx.FunctionProto, onnx.FunctionProto.FromString(found))


def _build(inner: ir.Node, values: dict[str, ir.Value | None], node: ir.Node, op: Builder) -> list[ir.Node]:
    """Build one node of a definition, and note its outputs by their names; a constant is no node."""
    attributes = _attributes(inner, node, op.writer.module.opset)
    name = f"{op.base}_{inner.op_type.lower()}"
    if inner.op_type == "Constant" and "value" in attributes:
        values[name_of(inner.outputs[0])] = op.constant(name, attributes["value"].numpy())
        return []
    read = [None if value is None else values[name_of(value)] for value in inner.inputs]
    names = [name] * len(inner.outputs)
    built = op.several(inner.op_type, *read, names=names, **attributes)
    values.update(zip(map(name_of, inner.outputs), built, strict=True))
    return [maker for value in built[:1] if (maker := value.producer()) is not None]


def _attributes(inner: ir.Node, node: ir.Node, opset: int) -> Mapping[str, Any]:
    """Return the attributes of a node of a definition, those filled in that are the operator's."""
    defaults = onnx.defs.get_schema(node.op_type, opset).attributes
    found = {}
    for key, one in inner.attributes.items():
        outer = one.ref_attr_name
        if outer is None:
            found[key] = one.value
        elif outer in node.attributes:
            found[key] = node.attributes[outer].value
        elif (default := defaults[outer].default_value).name:
            found[key] = onnx.helper.get_attribute_value(default)
    return found
