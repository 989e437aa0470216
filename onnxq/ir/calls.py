"""A model's own functions and their calls: whether they fit, end, and stay small once inlined."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from onnxq.errors import ModelError
from onnxq.limits import INLINED_NODES

_AGAIN = "export the model again, without functions"


def check_calls(model: ir.Model) -> None:
    """Check that every call fits its function, that none calls itself, and how many nodes all are inlined.

    Raises:
        ModelError: The first thing that is wrong; the error does not name the file.

    """
    if not model.functions:
        return
    for domain, name, _ in model.functions:
        if not domain:
            raise ModelError(
                "it has no domain",
                where=f"function {name!r}",
                hint="export the model again, or name a domain",
            )
    bodies = [model.graph.all_nodes(), *(one.all_nodes() for one in model.functions.values())]
    for node in (node for body in bodies for node in body):
        called = model.functions.get(node.op_identifier())
        if called is not None:
            _check_call(node, called)
    sizes: dict[ir.OperatorIdentifier, int] = {}
    for identifier in model.functions:
        _measure(identifier, model, sizes, ())
    total = _inlined(model.graph.all_nodes(), sizes)
    INLINED_NODES.check(total, "with its functions inlined it has", "", ModelError)


def _check_call(node: ir.Node, function: ir.Function) -> None:
    for kind, given, formal in (
        ("inputs", node.inputs, function.inputs),
        ("outputs", node.outputs, function.outputs),
    ):
        if len(given) > len(formal):
            raise ModelError(
                f"it has {len(given)} {kind}, and its function {function.name!r} has {len(formal)}",
                where=f"node {node.name!r}",
                hint=_AGAIN,
            )


def _measure(
    identifier: ir.OperatorIdentifier,
    model: ir.Model,
    sizes: dict[ir.OperatorIdentifier, int],
    callers: tuple[ir.OperatorIdentifier, ...],
) -> None:
    """Find how many nodes a function has, those that it calls inlined; onnx's checker bounds the depth."""
    if identifier in callers:
        raise ModelError("it calls itself", where=f"function {identifier[1]!r}", hint=_AGAIN)
    if identifier in sizes:
        return
    called = {node.op_identifier() for node in model.functions[identifier].all_nodes()}
    for other in sorted(called & model.functions.keys()):
        _measure(other, model, sizes, (*callers, identifier))
    sizes[identifier] = _inlined(model.functions[identifier].all_nodes(), sizes)


def _inlined(nodes: Iterable[ir.Node], sizes: dict[ir.OperatorIdentifier, int]) -> int:
    return sum(sizes.get(node.op_identifier(), 1) for node in nodes)
