"""One node on the way back: what a rule sees of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import onnx_ir as ir

from onnxq.autodiff.shapes import Shape, known_shape, reshaped, summed, zeros
from onnxq.autodiff.term import Term
from onnxq.ir.module import attribute, constant_of, input_of
from onnxq.rewrite.builder import Builder

Known = TypeVar("Known")


class NoGradientError(Exception):
    """A rule does not cover what a node does; the message says what."""


@dataclass(frozen=True, eq=False)
class Step:
    """A node, the gradients of its outputs, and what builds those of its inputs.

    Args:
        op: Builds nodes.
        node: The node.
        gradients: One for each output; None where nothing that is asked for depends on it.

    """

    op: Builder
    node: ir.Node
    gradients: Sequence[ir.Value | None]
    _found: dict[Callable[[Step], Any], Any] = field(default_factory=dict)

    @property
    def g(self) -> Term:
        """The gradient of the first output."""
        return self.gradient(0)

    @property
    def x(self) -> Term:
        """The first input."""
        return self[0]

    @property
    def y(self) -> Term:
        """The first output."""
        return self.output(0)

    def __getitem__(self, index: int) -> Term:
        """Return an input that the node has."""
        value = input_of(self.node, index)
        assert value is not None
        return Term(self.op, value)

    def has(self, index: int) -> bool:
        """Tell whether the node has an input of this number."""
        return input_of(self.node, index) is not None

    def output(self, index: int) -> Term:
        """Return an output."""
        return Term(self.op, self.node.outputs[index])

    def gradient(self, index: int) -> Term:
        """Return the gradient of an output: zeros where nothing depends on it."""
        found = self.gradients[index]
        return zeros(self.output(index)) if found is None else Term(self.op, found)

    def attr(self, name: str, default: Any = None) -> Any:
        """Return an attribute of the node."""
        return attribute(self.node, name, default)

    def constant(self, index: int) -> Any:
        """Return the array of an input; None where it is no constant, or there is none."""
        return constant_of(input_of(self.node, index))

    def shape(self, index: int = 0) -> Shape:
        """Return the lengths of an input's axes: numbers, names, or None.

        Raises:
            NoGradientError: It is not known how many axes there are.

        """
        found = known_shape(self[index])
        if found is None:
            raise NoGradientError(f"how many axes its input {index} has is not known")
        return found

    def output_shape(self) -> Shape:
        """Return the same of the first output."""
        found = known_shape(self.y)
        if found is None:
            raise NoGradientError("how many axes its output has is not known")
        return found

    def rank(self, index: int = 0) -> int:
        """Return how many axes an input has."""
        return len(self.shape(index))

    def axis(self, default: int, index: int = 0) -> int:
        """Return the attribute ``axis`` as an index of an input's axes, counted from 0."""
        axis, rank = int(self.attr("axis", default)), self.rank(index)
        return axis + rank if axis < 0 else axis

    def summed(self, gradient: Term, index: int) -> Term:
        """Return the sum of what has the output's shape over the axes along which an input was repeated."""
        return summed(gradient, self[index], self.shape(index), self.output_shape())

    def as_input(self, gradient: Term, index: int = 0) -> Term:
        """Return the same elements in the shape of an input."""
        return reshaped(gradient, self[index])

    def once(self, find: Callable[[Step], Known]) -> Known:
        """Return what a function finds of the step, for whichever inputs it is asked: it is called once."""
        if find not in self._found:
            self._found[find] = find(self)
        known: Known = self._found[find]
        return known


Rule = Callable[[Step, int], Term | None]
"""Returns the gradient of the input of this number, or None where it is 0 everywhere."""

Part = Callable[[Step], Term | None]
"""The same of one input."""


def of_inputs(*parts: Part | None) -> Rule:
    """Return the rule of an operator: one part for each input, None for inputs without a gradient."""

    def rule(step: Step, index: int) -> Term | None:
        part = parts[index] if index < len(parts) else None
        if part is None:
            raise NoGradientError(f"its input {index} has no gradient rule")
        return part(step)

    return rule


def broadcasting(*parts: Part) -> Rule:
    """Return the rule of an operator that repeats what is shorter: each part has the output's shape."""

    def rule(step: Step, index: int) -> Term | None:
        found = of_inputs(*parts)(step, index)
        return None if found is None else step.summed(found, index)

    return rule


def variadic(part: Rule) -> Rule:
    """Return the same of an operator whose inputs are all alike."""
    return lambda step, index: None if (found := part(step, index)) is None else step.summed(found, index)
