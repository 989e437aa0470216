"""Building nodes in one line each: ``y = op.Gelu(x, approximate="tanh")``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.errors import PassError, PreconditionError
from onnxq.ir.inference import infer_outputs
from onnxq.ir.knowledge import note_origin
from onnxq.ir.module import name_of
from onnxq.rewrite.writer import Writer

Input = ir.Value | NDArray[Any] | float | None
"""What a node can read: a value, numbers that become a constant, or None for an input that is left out."""


class Builder:
    """Builds nodes at one place of a graph, for one reason; each stands behind the one before.

    An operator is a method that takes inputs and attributes, and returns the output. Types and shapes are
    inferred where onnx knows the operator. ``name`` is what the output and the node are called; by default
    what stands there, and the operator. ``like`` is a value whose type and shape the output has.
    """

    def __init__(
        self,
        writer: Writer,
        base: str,
        why: str,
        before: ir.Node | None = None,
        after: ir.Node | None = None,
    ) -> None:
        """Build ``before`` a node, ``after`` one, or at the front; ``base`` begins the names."""
        self.writer, self.base, self.why = writer, base, why
        self._before, self._after, self._open = before, after, True

    def __enter__(self) -> Builder:
        """Begin to build; at the end of the block that is over."""
        return self

    def __exit__(self, *_: object) -> None:
        """Build no more: what stands here may go now."""
        self._open = False

    def __getattr__(self, op_type: str) -> Callable[..., ir.Value]:
        """Return what builds a node of this operator."""
        if not op_type[0].isupper():
            raise AttributeError(op_type)
        return partial(self, op_type)

    def __call__(
        self,
        op_type: str,
        *inputs: Input,
        name: str = "",
        like: ir.Value | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> ir.Value:
        """Build a node with one output, and return that.

        Raises:
            PassError: The block that it was built in is over, or an input was replaced by another value.

        """
        name = name or f"{self.base}_{op_type.lower()}"
        (output,) = self._build(op_type, inputs, [name], domain, attributes, [like] if like else ())
        return output

    def alike(self, node: ir.Node, *inputs: Input, name: str) -> ir.Value:
        """Build a node of the same operator and attributes that reads other inputs, and return its output."""
        attributes = {key: attribute.value for key, attribute in node.attributes.items()}
        return self(node.op_type, *inputs, name=name, domain=node.domain, **attributes)

    def several(
        self,
        op_type: str,
        *inputs: Input,
        names: Sequence[str],
        like: Sequence[ir.Value] = (),
        domain: str = "",
        **attributes: Any,
    ) -> list[ir.Value]:
        """Build a node with several outputs, called like these, and return them.

        ``like`` are values whose types and shapes they have, in order.
        """
        return self._build(op_type, inputs, names, domain, attributes, like)

    def constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        """Add an initializer called ``name``, or like it if that is taken."""
        return self.writer.constant(name, array, why=self.why)

    def _build(
        self,
        op_type: str,
        inputs: Sequence[Input],
        names: Sequence[str],
        domain: str,
        attributes: dict[str, Any],
        like: Sequence[ir.Value] = (),
    ) -> list[ir.Value]:
        if not self._open:
            raise PassError(
                f"a pass builds a {op_type} behind the end of its block", where=f"at {self.base!r}"
            )
        read = _without_absent_end(self._values(inputs, names[0]))
        place = {"before": self._before, "after": self._after}
        stored = {key: _as_stored(value) for key, value in attributes.items()}
        node = self.writer.node(op_type, read, names, why=self.why, attributes=stored, domain=domain, **place)
        if self._before is None:
            self._after = node
        else:
            note_origin(node, self._before)
        if like:
            for output, model in zip(node.outputs, like, strict=True):
                output.type, output.shape = model.type, model.shape
        else:
            infer_outputs(node, self.writer.module.model)
        return list(node.outputs)

    def _values(self, inputs: Sequence[Input], name: str) -> list[ir.Value | None]:
        """Return the inputs as values; a plain number is of the type of the first value."""
        dtype = next((value.dtype for value in inputs if isinstance(value, ir.Value) and value.dtype), None)
        read: list[ir.Value | None] = []
        for index, given in enumerate(inputs):
            if given is None or isinstance(given, ir.Value):
                read.append(given)
                continue
            plain = isinstance(given, float | int) and dtype is not None
            array = np.asarray(given, dtype.numpy() if plain and dtype is not None else None)
            read.append(self.constant(f"{name}_{index}", array))
        return read


def _as_stored(value: Any) -> Any:
    """Return an attribute as files hold it: floats of 32 bits."""
    return float(np.float32(value)) if isinstance(value, float) else value


def builder_at(writer: Writer, place: ir.Node | ir.Value, why: str) -> Builder:
    """Return what builds right before a node, or before the one that computes a value.

    Raises:
        PreconditionError: Nothing computes the value.

    """
    node = place.producer() if isinstance(place, ir.Value) else place
    if node is None:
        raise PreconditionError("nothing computes it", where=f"value {place.name!r}")
    value = place if isinstance(place, ir.Value) else node.outputs[0]
    return Builder(writer, name_of(value), why, before=node)


def builder_behind(writer: Writer, value: ir.Value, why: str) -> Builder:
    """Return what builds right behind what computes a value, or at the front for what nothing computes."""
    return Builder(writer, name_of(value), why, after=value.producer())


def _without_absent_end(values: Iterable[ir.Value | None]) -> list[ir.Value | None]:
    """Leave out the absent inputs at the end, which need not be written."""
    found = list(values)
    while found and found[-1] is None:
        found.pop()
    return found
