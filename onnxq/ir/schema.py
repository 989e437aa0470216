"""What ONNX says about the types of a node's inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_ir as ir

from onnxq.ir.inference import infer_types
from onnxq.ir.module import is_standard

CONTRIB = "com.microsoft"
FLOAT8_PRODUCT = "MatMulBlockQuantizedFp8Weight"
CONTRIB_OPERATORS = {
    "Attention": (("T", "T", "T", "M", "T", "T", "M"), ("T", "T")),
    "GatherBlockQuantized": (("T1", "Tind", "T2", "T1"), ("T2",)),
    "GroupQueryAttention": (("T", "T", "T", "T", "T", "M", "M"), ("T", "T", "T")),
    FLOAT8_PRODUCT: (("T", "T1", "float", "float", "T"), ("T",)),
    "MatMulNBits": (("T1", "T2", "T1", "T3", "T4", "T1"), ("T1",)),
}
"""The type parameters of inputs and outputs of ONNX Runtime's own operators that onnxq writes: ``float`` is
float32 and nothing else, ``M`` int32. Caches have the type of what they are of."""
_FLOATS = frozenset({"tensor(float)", "tensor(float16)", "tensor(bfloat16)"})


@dataclass(frozen=True)
class Formal:
    """One formal input or output of an operator.

    Args:
        name: What the operator calls it.
        parameter: Its type parameter, or its type where it has only one.
        allowed: The types that it may have, such as ``tensor(float16)``.

    """

    name: str
    parameter: str
    allowed: frozenset[str]


@dataclass(frozen=True)
class Signature:
    """The formal inputs and outputs that belong to a node's own, and since when they hold."""

    inputs: tuple[Formal, ...]
    outputs: tuple[Formal, ...]
    since: int


def signature_of(node: ir.Node, opset: int) -> Signature | None:
    """Return the signature of a standard operator, or of one of ONNX Runtime's; None for others."""
    if node.domain == CONTRIB and node.op_type in CONTRIB_OPERATORS:
        inputs, outputs = CONTRIB_OPERATORS[node.op_type]
        return Signature(_of_contrib(inputs), _of_contrib(outputs), 1)
    if not is_standard(node) or not onnx.defs.has(node.op_type, max_inclusive_version=opset):
        return None
    schema = onnx.defs.get_schema(node.op_type, max_inclusive_version=opset)
    return Signature(
        _formals(schema, schema.inputs, len(node.inputs)),
        _formals(schema, schema.outputs, len(node.outputs)),
        schema.since_version,
    )


def _of_contrib(parameters: tuple[str, ...]) -> tuple[Formal, ...]:
    only = {"float": frozenset({"tensor(float)"}), "M": frozenset({"tensor(int32)"})}
    return tuple(Formal(parameter, parameter, only.get(parameter, _FLOATS)) for parameter in parameters)


def _formals(
    schema: onnx.defs.OpSchema, declared: Sequence[onnx.defs.OpSchema.FormalParameter], count: int
) -> tuple[Formal, ...]:
    """Return one formal for each of ``count`` values; the last declared may stand for many."""
    allowed = {one.type_param_str: frozenset(one.allowed_type_strs) for one in schema.type_constraints}
    formals = [
        Formal(one.name, one.type_str, allowed.get(one.type_str, frozenset({one.type_str})))
        for one in declared
    ]
    return tuple(formals[min(index, len(formals) - 1)] for index in range(count)) if formals else ()


def body_of(node: ir.Node, opset: int) -> ir.Function | None:
    """Return what ONNX says that a standard operator computes, in terms of others; None where it does not.

    Runtimes put it in the operator's place where they have no kernel for it. A body is written for one
    operator set, and holds for later ones until an operator in it gets another version. What depends on types
    takes those of the node's inputs, and a tensor of float32 for what is not known. Outputs that the node
    leaves out may be missing.
    """
    if not is_standard(node) or not onnx.defs.has(node.op_type, max_inclusive_version=opset):
        return None
    schema: Any = onnx.defs.get_schema(node.op_type, max_inclusive_version=opset)
    proto = onnx.FunctionProto()
    if version := _newest(schema.function_opset_versions, opset):
        proto.ParseFromString(schema.get_function_with_opset_version(version))
        if any(_since(part.op_type, version) != _since(part.op_type, opset) for part in proto.node):
            return None
    elif version := _newest(schema.context_dependent_function_opset_versions, opset):
        types = [_type_proto(value).SerializeToString() for value in node.inputs]
        called = ir.to_proto(node).SerializeToString()
        proto.ParseFromString(
            schema.get_context_dependent_function_with_opset_version(version, called, types)
        )
    else:
        return None
    made = {name for part in proto.node for name in part.output}
    proto.output[:] = [name for name in proto.output if name in made]
    return _typed(ir.serde.deserialize_function(proto), node, opset)


def _typed(body: ir.Function, node: ir.Node, opset: int) -> ir.Function:
    """Give the values of a body the types that follow from those of the node's inputs, if all are known."""
    body.opset_imports[""] = opset
    dtypes = [value.dtype for value in node.inputs if value is not None and value.dtype is not None]
    if len(dtypes) == len(node.inputs):
        for value, dtype in zip(body.inputs, dtypes, strict=False):
            value.dtype = dtype
        infer_types(ir.Model(body.graph, ir_version=10))
    return body


def _newest(versions: Sequence[int], opset: int) -> int | None:
    return max((one for one in versions if one <= opset), default=None)


def _since(op_type: str, opset: int) -> int:
    return int(onnx.defs.get_schema(op_type, max_inclusive_version=opset).since_version)


def _type_proto(value: ir.Value | None) -> onnx.TypeProto:
    if value is None or value.type is None:
        return onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None)
    return ir.serde.serialize_type(value.type)
