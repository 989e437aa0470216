"""Verification: what has to hold for a module before and after every pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import CheckerPass

from onnxq.errors import VerifyError
from onnxq.ir.knowledge import stale_inputs
from onnxq.ir.module import GraphModule, constant_of, name_of
from onnxq.quant.encodings import Encoding

GRAPHS = frozenset({ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS})


def verify(module: GraphModule) -> None:
    """Check names, order, imports and decisions.

    Raises:
        VerifyError: The first thing that is wrong, and where.

    """
    for where, problem in _problems(module):
        raise VerifyError(problem, where=where)


def check_operators(module: GraphModule) -> None:
    """Check every standard operator's inputs, attributes and types with onnx's own checker.

    The module stays as it is: onnx_ir 1.1 takes weights of more than 1000 bytes out while the checker runs,
    and puts them back at the end, where later passes would come to them in another order.

    Raises:
        VerifyError: What the checker says.

    """
    initializers = module.graph.initializers
    order = list(initializers.values())
    try:
        with _stated((*module.graph.inputs, *module.graph.outputs)):
            CheckerPass(full_check=False)(module.model)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise VerifyError(" ".join(str(error).split())) from error
    finally:
        initializers.clear()
        for value in order:
            initializers.add(value)


def check_nodes(module: GraphModule, nodes: Sequence[ir.Node]) -> None:
    """Check the inputs and attributes of some nodes with onnx's own checker; all, if some hold graphs.

    Raises:
        VerifyError: What the checker says.

    """
    if any(attr.type in GRAPHS for node in nodes for attr in node.attributes.values()):
        check_operators(module)
        return
    context = type(onnx.checker.DEFAULT_CONTEXT)()
    context.ir_version, context.opset_imports = module.model.ir_version, dict(module.model.opset_imports)
    try:
        for node in nodes:
            onnx.checker.check_node(ir.serde.serialize_node(node), context)
    except onnx.checker.ValidationError as error:
        raise VerifyError(" ".join(str(error).split())) from error


@contextmanager
def _stated(values: Iterable[ir.Value]) -> Iterator[None]:
    """Let tensors of which no type or number of axes is known have any, as the checker asks for it."""
    unknown = [(one, one.type) for one in values if one.type is None or _is_open_tensor(one)]
    for value, _ in unknown:
        value.type, value.shape = value.type or ir.TensorType(ir.DataType.FLOAT), ir.Shape(())
    try:
        yield
    finally:
        for value, kind in unknown:
            value.type, value.shape = kind, None


def _is_open_tensor(value: ir.Value) -> bool:
    return isinstance(value.type, ir.TensorType) and value.shape is None


def _problems(module: GraphModule) -> Iterator[tuple[str, str]]:
    known = {name_of(v) for v in (*module.graph.inputs, *module.graph.initializers.values())}
    for node in module.graph:
        where = f"node {node.name!r} ({node.op_type})"
        if not node.name:
            yield where, "the node has no name"
        if node.domain not in module.model.opset_imports:
            yield where, f"the domain {node.domain!r} is not imported"
        for value in node.inputs:
            if value is not None and value.name not in known:
                yield where, f"it reads {value.name!r}, which is not computed before it"
        for value in node.outputs:
            if value.name in known:
                yield where, f"a second value is called {value.name!r}"
            known.update({value.name} if value.name else ())
    for output in module.graph.outputs:
        if output.name not in known:
            yield f"output {output.name!r}", "nothing computes it"
    yield from _decision_problems(module)


def _decision_problems(module: GraphModule) -> Iterator[tuple[str, str]]:
    for decision in module.decisions():
        value, where = decision.value, f"encoding of {name_of(decision.value)!r}"
        if not _fits(value, decision.encoding):
            yield where, f"its number of {decision.encoding.layout.parts} is not the value's"
        if value.dtype is not None and not value.dtype.is_floating_point():
            yield where, f"the value holds no floats, but {value.dtype.name.lower()}"
        if decision.encoding.dtype == "int32" and constant_of(value) is None:
            yield where, "nothing quantizes to int32 at run time"
    for node in module.graph.all_nodes():
        for index in stale_inputs(node):
            yield (
                f"node {node.name!r} ({node.op_type})",
                f"an encoding is decided for its missing input {index}",
            )


def _fits(value: ir.Value, encoding: Encoding) -> bool:
    if value.shape is None:
        return True
    return encoding.fits([size if isinstance(size, int) else None for size in value.shape])
