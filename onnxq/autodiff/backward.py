"""The gradient of a value: new nodes behind the graph, each forward node visited once, last to first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx_ir as ir

from onnxq.autodiff.body import Body, body_of
from onnxq.autodiff.inferred import infer
from onnxq.autodiff.paths import Paths
from onnxq.autodiff.registry import rule_of
from onnxq.autodiff.shapes import expanded
from onnxq.autodiff.step import NoGradientError, Step
from onnxq.autodiff.term import Term
from onnxq.errors import ModelError
from onnxq.ir.inference import types_known
from onnxq.ir.module import GraphModule, name_of
from onnxq.rewrite.builder import Builder
from onnxq.rewrite.writer import Writer

OLDEST = 18
"""The operator set in which reductions take their axes as inputs, and scattered elements are added up."""

HINT = "differentiate another value, or install a rule for it: entry points of the group 'onnxq.gradients'"


class GradientError(ModelError):
    """A node on the way has no gradient, or there is no way."""


def gradient(
    module: GraphModule, *, of: ir.Value, wrt: Sequence[ir.Value], seed: ir.Value | None = None
) -> list[ir.Value]:
    """Add to a graph what computes the gradient of a value, and return it.

    What stands in the graph stays as it is; only what is needed is added. Constants must be initializers,
    and functions inlined. Where types or shapes are not known yet, they are inferred.

    Args:
        module: Its main graph is added to; in operator set 18 or later.
        of: A value of floats, of any shape.
        wrt: Inputs, initializers or inner values, of floats.
        seed: Of the shape and type of ``of``, the weight of each element in the sum that is differentiated;
            by default all are 1. It may be computed in the graph, or be an input.

    Returns:
        One value for each of ``wrt``, of its shape and type: the derivative of ``sum(seed * of)``.

    Raises:
        GradientError: ``of`` does not depend on one of ``wrt``, or an operator on the way has no rule.
        ModelError: The operator set is older than 18.

    """
    _make_ready(module)
    _require_way(Paths.between(list(module.graph), [of], wrt), of, wrt)
    weights = _filled(_behind(of, Writer(module)), of, 1) if seed is None else seed
    return [
        _filled(_behind(value, Writer(module)), value, 0) if found is None else found
        for value, found in zip(wrt, pulled_back(module, {of: weights}, wrt), strict=True)
    ]


def pulled_back(
    module: GraphModule, seeds: Mapping[ir.Value, ir.Value], wrt: Sequence[ir.Value]
) -> list[ir.Value | None]:
    """Add to a graph what computes the gradient of several values together, and return it.

    Args:
        module: As for ``gradient``.
        seeds: For each value that is differentiated, its seed.
        wrt: As for ``gradient``.

    Returns:
        One value for each of ``wrt``, of its shape and type: the derivative of the sum over all ``of`` of
        ``sum(seed * of)``; None where none of them depends on it.

    Raises:
        GradientError: An operator on the way has no rule.
        ModelError: The operator set is older than 18.

    """
    _make_ready(module)
    nodes = list(module.graph)
    paths, found = Paths.between(nodes, seeds, wrt), Gradients(Writer(module))
    for of, seed in seeds.items():
        found.add(of, seed)
    found.walk(nodes, paths)
    return [found.of(value) if value in paths.made_into else None for value in wrt]


def _make_ready(module: GraphModule) -> None:
    if module.opset < OLDEST:
        raise ModelError(
            f"gradients need operator set {OLDEST}, and the model has {module.opset}",
            hint="put convert-opset before it",
        )
    if not types_known(module.graph, shapes=True):
        infer(module.model)


def _require_way(paths: Paths, of: ir.Value, wrt: Iterable[ir.Value]) -> None:
    for value in wrt:
        if value not in paths.made_into:
            raise GradientError(f"it does not depend on {name_of(value)!r}", where=f"value {name_of(of)!r}")


def _behind(value: ir.Value, writer: Writer) -> Builder:
    return Builder(writer, f"{name_of(value)}_grad", "gradient", after=writer.module.graph[-1])


def _filled(op: Builder, like: ir.Value, number: float) -> ir.Value:
    term = Term(op, like)
    return expanded(term.number(number), term).value


class Gradients:
    """The gradients found so far, in parts: one for each use of a value."""

    def __init__(self, writer: Writer) -> None:
        """Begin with none; nodes are added behind the last one of the graph."""
        self._writer = writer
        self._parts: dict[ir.Value, list[ir.Value]] = {}

    def add(self, value: ir.Value, part: ir.Value) -> None:
        """Note one part of a value's gradient."""
        part.shape = value.shape or part.shape
        self._parts.setdefault(value, []).append(part)

    def of(self, value: ir.Value) -> ir.Value | None:
        """Return the gradient of a value, the sum of its parts; None if there are none."""
        parts = self._parts.get(value)
        if parts is None:
            return None
        if len(parts) > 1:
            parts[:] = [self.behind(value)("Sum", *parts)]
            parts[0].shape = value.shape or parts[0].shape
        return parts[0]

    def behind(self, value: ir.Value) -> Builder:
        """Return what builds behind the graph, and names what it builds after a value."""
        return _behind(value, self._writer)

    def walk(self, nodes: Sequence[ir.Node], paths: Paths) -> None:
        """Go back through nodes in topological order, and note what their rules find.

        Raises:
            GradientError: An operator on the way has no rule, or its rule does not cover what it does.

        """
        for node in reversed(nodes):
            if not paths.lead_through(node):
                continue
            gradients = [self.of(value) for value in node.outputs]
            if any(one is not None for one in gradients):
                self._step_back(node, gradients, paths)

    def _step_back(self, node: ir.Node, gradients: Sequence[ir.Value | None], paths: Paths) -> None:
        """Note the parts that a node's inputs get, as its operator's rule says, or its definition."""
        step = Step(self.behind(node.outputs[0]), node, gradients)
        try:
            rule = rule_of(node)
            if rule is None and (body := body_of(node, step.op)) is not None:
                self._through(body, step, paths)
                return
            if rule is None:
                raise NoGradientError("the operator has no gradient rule")
            parts = {index: rule(step, index) for index in paths.wanted(node)}
        except NoGradientError as error:
            where = f"node {node.name!r} ({node.op_type})"
            raise GradientError(f"{error}; on the way {paths.told(node)}", where=where, hint=HINT) from error
        for index, part in parts.items():
            value = node.inputs[index]
            if part is not None and value is not None:
                self.add(value, part.value)

    def _through(self, body: Body, step: Step, paths: Paths) -> None:
        """Note the parts that a node's inputs get from the nodes that define it."""
        inside = Gradients(self._writer)
        ends = {
            y: g for y, g in zip(body.outputs, step.gradients, strict=True) if y is not None and g is not None
        }
        sources = [value for value in dict.fromkeys(step.node.inputs) if value and value in paths.made_of]
        for end, found in ends.items():
            inside.add(end, found)
        inside.walk(body.nodes, Paths.between(body.nodes, ends, sources))
        for source in sources:
            if (part := inside.of(source)) is not None:
                self.add(source, part)
