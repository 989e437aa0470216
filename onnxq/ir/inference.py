"""Types and shapes of all values, as far as onnx infers them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import ShapeInferencePass, shape_inference

from onnxq.ir.module import constant_of, is_standard, name_of

NO_TENSORS = (
    "Optional",
    "SequenceConstruct",
    "SequenceEmpty",
    "SequenceErase",
    "SequenceInsert",
    "SequenceMap",
    "SplitToSequence",
)
ANY_TYPE = ("Identity", "If", "Loop", "OptionalGetElement", "Scan")
"""What they pass on may be no tensor."""
ONE_TYPE = ("Add", "Conv", "ConvTranspose", "Div", "Gemm", "MatMul", "Mul", "Sub")
"""Their inputs are all of one type."""
LONGEST_VECTOR = 1 << 20
"""onnx follows the elements of vectors, for the sake of shapes; longer ones than this are no shapes."""

LONGEST_SHAPE = 64
"""The inference of one node looks at the elements of constants as short as this."""


def infer_types(model: ir.Model) -> ir.Model:
    """Infer in place, and return the model; what it states itself stays, unless onnx infers otherwise.

    A shape that a file states and that contradicts the node that makes the value is replaced: ONNX Runtime
    does not believe it either, so that such a file runs, but what is inferred from it would not.

    Values of subgraphs get names that nobody else in the model has: onnx keeps what it knows of shapes in
    one table for all graphs, so that one branch would get the shapes of another. What onnx_ir 1.1 takes for
    tensors in a model with sequences or optional values, where it is none, is forgotten again. The type of
    what foreign operators make is told by what it is multiplied with.
    """
    _name_apart(model)
    nodes = list(model.graph.all_nodes())
    doubtful = [node for node in nodes if is_standard(node, *NO_TENSORS, *ANY_TYPE)]
    unknown = [value for node in doubtful for value in node.outputs if value.type is None]
    if not _infer(model, strict_mode=True):
        _correct_shapes(model)
        _infer(model)
    if _told_by_readers(nodes):
        _infer(model)
    if any(is_standard(node, *NO_TENSORS) for node in nodes):
        for value in unknown:
            value.type, value.shape = None, None
    return model


def _told_by_readers(nodes: Iterable[ir.Node]) -> bool:
    """Give what foreign operators make the type of what else its readers read; tell whether there is any."""
    told = {
        value: other.dtype
        for node in nodes
        if not is_standard(node)
        for value in node.outputs
        if value.type is None
        for reader in value.consumers()
        if is_standard(reader, *ONE_TYPE)
        for other in reader.inputs
        if other is not None and other.dtype is not None
    }
    for value, dtype in told.items():
        value.dtype = dtype
    return bool(told)


def types_known(nodes: Iterable[ir.Node], *, shapes: bool = False) -> bool:
    """Tell whether the types of all that ``nodes`` read are known, and their shapes if asked for."""
    read = (value for node in nodes for value in node.inputs if value is not None)
    return all(value.type is not None and (not shapes or value.shape is not None) for value in read)


def infer_all(model: ir.Model) -> ir.Model:
    """Let onnx infer in place, and return the model; where one node is not as onnx wants it, all stays."""
    _infer(model, check_type=True, strict_mode=True)
    return model


def contradiction(model: ir.Model) -> str | None:
    """Return which node or statement onnx finds to contradict others, and why; None if it finds none.

    Nothing is found where onnx_ir's log, in which it tells of a failure, is switched off.

    Args:
        model: The model; what onnx infers where nothing is wrong is put into it.

    """
    _name_apart(model)
    return _attempt(model, check_type=True, strict_mode=True)[1].reason


def _infer(model: ir.Model, *, check_type: bool = False, strict_mode: bool = False) -> bool:
    """Let onnx infer in place, and tell whether it could; if not, the model stays as it was.

    onnx_ir tells of a failure in its log only. Where that is switched off, no change is taken for a failure.

    Args:
        model: The model.
        check_type: Whether a node whose inputs are of wrong types is a failure.
        strict_mode: Whether a node that contradicts its inputs, or what is stated of its outputs, is one.

    """
    modified, failures = _attempt(model, check_type=check_type, strict_mode=strict_mode)
    told = shape_inference.logger.isEnabledFor(logging.WARNING)
    return modified or (told and failures.reason is None)


def _attempt(model: ir.Model, *, check_type: bool, strict_mode: bool) -> tuple[bool, _Failures]:
    """Let onnx infer in place, and return whether that changed anything, and what was logged."""
    follow = _longest_vector(model.graph) <= LONGEST_VECTOR
    failures = _Failures()
    shape_inference.logger.addFilter(failures)
    try:
        result = ShapeInferencePass(check_type=check_type, strict_mode=strict_mode, data_prop=follow)(model)
    finally:
        shape_inference.logger.removeFilter(failures)
    return result.modified, failures


class _Failures(logging.Filter):
    """Remembers the reason of the failure that was logged, and keeps its traceback from the terminal."""

    reason: str | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] is not None:
            self.reason = " ".join(str(record.exc_info[1]).split())
        return not record.exc_info


def _correct_shapes(model: ir.Model) -> None:
    """Replace stated shapes that contradict a weight, or what onnx infers of the others without them."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.shape = ir.Shape(value.const_value.shape.numpy())
    bare = model.clone()
    for value in _made(bare):
        value.shape = None
    _infer(bare)
    for stated, found in zip(_made(model), _made(bare), strict=True):
        if stated.shape is not None and found.shape is not None and _differ(stated.shape, found.shape):
            stated.shape = found.shape


def _made(model: ir.Model) -> list[ir.Value]:
    return [value for node in model.graph.all_nodes() for value in node.outputs]


def _differ(one: ir.Shape, other: ir.Shape) -> bool:
    """Tell whether no value can have both shapes."""
    known = [(a, b) for a, b in zip(one, other, strict=False) if isinstance(a, int) and isinstance(b, int)]
    return len(one) != len(other) or any(a != b for a, b in known)


def _short_vector(value: ir.Value) -> NDArray[Any] | None:
    """Return the elements of a constant that may be a shape, or axes."""
    array = constant_of(value)
    return array if array is not None and array.dtype.kind == "i" and array.size <= LONGEST_SHAPE else None


def _longest_vector(graph: ir.Graph) -> int:
    """Bound the length of the vectors whose elements onnx would follow: a Concat may double at each step."""
    length = {
        value: tensor.size
        for value in graph.initializers.values()
        if (tensor := value.const_value) is not None and len(tensor.shape) == 1
    }
    for node in graph:
        lengths = [length.get(value, 1) for value in node.inputs if value is not None]
        longest = sum(lengths) if is_standard(node, "Concat") else max(lengths, default=1)
        length.update(dict.fromkeys(node.outputs, longest))
    return max(length.values(), default=1)


def _name_apart(model: ir.Model) -> None:
    """Number the namesakes among the values of different subgraphs."""
    values = [value for graph in model.graphs() for value in _made_in(graph) if value.name]
    taken, seen, counts = set(map(name_of, values)), set[str](), Counter[str]()
    for value in values:
        name = base = name_of(value)
        if base in seen:
            while name in taken:
                counts[base] += 1
                name = f"{base}_{counts[base]}"
            value.name = name
        taken.add(name)
        seen.add(base)


def _made_in(graph: ir.Graph) -> list[ir.Value]:
    inner = [value for node in graph for value in node.outputs]
    return list(dict.fromkeys((*graph.inputs, *graph.initializers.values(), *inner)))


def infer_outputs(node: ir.Node, model: ir.Model) -> None:
    """Give the outputs of one node the types and shapes that onnx infers from its inputs; else leave them."""
    opset, read = (
        model.opset_imports.get(node.domain, 0),
        [value for value in node.inputs if value is not None],
    )
    known = onnx.defs.has(node.op_type, max_inclusive_version=opset, domain=node.domain)
    if not known or any(value.type is None for value in read):
        return
    types = {name_of(value): ir.serde.serialize_value(value).type for value in read}
    short = {name_of(value): array for value in read if (array := _short_vector(value)) is not None}
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()]
    try:
        found = onnx.shape_inference.infer_node_outputs(
            onnx.defs.get_schema(node.op_type, opset, node.domain),
            ir.serde.serialize_node(node),
            types,
            {name: onnx.numpy_helper.from_array(array, name) for name, array in short.items()},
            opset_imports=imports,
            ir_version=model.ir_version,
        )
    except (onnx.shape_inference.InferenceError, RuntimeError):
        return
    for value in node.outputs:
        if (proto := found.get(name_of(value))) is not None:
            value.type = ir.serde.deserialize_type_proto_for_type(proto)
            value.shape = ir.serde.deserialize_type_proto_for_shape(proto)
