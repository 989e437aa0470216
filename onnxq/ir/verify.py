"""Verification: what has to hold for a module before and after every pass."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import CheckerPass

from onnxq.errors import VerifyError
from onnxq.ir.module import GraphModule, name_of
from onnxq.quant.encodings import Encoding


def verify(module: GraphModule) -> None:
    """Check names, order, imports and decisions.

    Raises:
        VerifyError: The first thing that is wrong, and where.

    """
    for where, problem in _problems(module):
        raise VerifyError(problem, where=where)


def check_operators(module: GraphModule) -> None:
    """Check every standard operator's inputs, attributes and types with onnx's own checker.

    Raises:
        VerifyError: What the checker says.

    """
    try:
        CheckerPass(full_check=False)(module.model)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise VerifyError(" ".join(str(error).split())) from error


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
    values = {name_of(value): value for value in module.values()}
    for name, decision in sorted(module.decisions.items()):
        if name not in values:
            yield f"encoding of {name!r}", "the graph has no such value"
        elif not _fits(values[name], decision.encoding):
            parts = decision.encoding.layout.parts
            yield f"encoding of {name!r}", f"its number of {parts} is not the value's"


def _fits(value: ir.Value, encoding: Encoding) -> bool:
    if value.shape is None:
        return True
    return encoding.fits([size if isinstance(size, int) else None for size in value.shape])
