"""A graph with what is known and what was decided about its values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.errors import PreconditionError
from onnxq.ir.knowledge import (
    Decision,
    NamedDecision,
    decisions_on,
    encoding_at,
    encoding_for_all,
    facts_on,
    note_facts,
    note_for_all,
    note_own,
)
from onnxq.ir.unlisted import register_operators
from onnxq.quant.encodings import Encoding
from onnxq.quant.facts import Facts
from onnxq.shown import Shown

register_operators()

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""The operators that multiply what they read by a weight."""


@dataclass
class GraphModule(Shown):
    """An ordinary ``onnx_ir`` model; what is known and decided of its values lies on them.

    Args:
        model: The model; change it through the Editor only.

    """

    model: ir.Model

    @property
    def graph(self) -> ir.Graph:
        """The main graph."""
        return self.model.graph

    @property
    def opset(self) -> int:
        """The version of the standard operators."""
        return self.graph.opset_imports.get("", 0)

    def values(self) -> Iterator[ir.Value]:
        """Yield inputs, initializers and node outputs of the main graph."""
        yield from self.graph.inputs
        yield from self.graph.initializers.data.values()  # of a dict of Python's own: several times as fast
        for node in self.graph:
            yield from node.outputs

    def value(self, name: str) -> ir.Value | None:
        """Return the value of the main graph with this name, if there is one."""
        return next((value for value in self.values() if value.name == name), None)

    def by_name(self) -> dict[str, ir.Value]:
        """Return the values of the main graph by their names."""
        return {name_of(value): value for value in self.values()}

    def clone(self) -> GraphModule:
        """Return a copy with all that is known and decided; both share the weights."""
        return GraphModule(self.model.clone())

    def undecided(self) -> GraphModule:
        """Return a copy with all that is known, in which nothing is decided."""
        copy = self.clone()
        for decision in copy.decisions():
            note_for_all(decision.value, None)
            for use in decision.uses:
                note_own(use.node, use.idx, None)
        return copy

    def facts_of(self, value: ir.Value | None) -> Facts | None:
        """Return what was measured of a value, if anything was."""
        return None if value is None else facts_on(value)

    def measured(self, value: ir.Value | None) -> Facts:
        """Return what was measured of a value that the pass has asked for.

        Raises:
            PreconditionError: Nothing was.

        """
        facts = self.facts_of(value)
        if facts is None:
            raise PreconditionError("nothing was measured of it", where=f"value {name_of(value)!r}")
        return facts

    def facts(self) -> dict[str, Facts]:
        """Return all facts by the names that the values have at the moment."""
        known = ((name_of(value), facts_on(value)) for value in self.values())
        return {name: facts for name, facts in known if facts is not None}

    def learn(self, found: Mapping[str, Facts]) -> None:
        """Put what was measured on the values of these names, beside what they know; pass over others."""
        for name, value in self.by_name().items():
            if name in found:
                old = facts_on(value)
                note_facts(value, found[name] if old is None else old.and_also(found[name]))

    def forget_facts(self) -> None:
        """Take away what was measured of values."""
        for value in self.values():
            note_facts(value, None)

    def decisions(self, value: ir.Value | None = None) -> list[Decision]:
        """Return what is decided for one value, or for all of the main graph, in its order."""
        values = dict.fromkeys(self.values()) if value is None else [value]
        return [decision for one in values for decision in decisions_on(one)]

    def named_decisions(self) -> list[NamedDecision]:
        """Return all decisions by the names of the moment, sorted by them."""
        named = [
            NamedDecision(
                name_of(one.value),
                one.encoding,
                None if one.for_all else frozenset(node.name or "" for node in one.readers),
            )
            for one in self.decisions()
        ]
        return sorted(named, key=lambda one: (one.value, sorted(one.readers or ())))

    def is_encoded(self, value: ir.Value | None) -> bool:
        """Tell whether an encoding of the value is decided for anyone."""
        return value is not None and bool(decisions_on(value))

    def encoding_of(self, value: ir.Value | None) -> Encoding | None:
        """Return the encoding that was decided for whoever reads the value, the graph's output included."""
        return None if value is None else encoding_for_all(value)

    def encoding_at(self, node: ir.Node, index: int) -> Encoding | None:
        """Return the encoding in which a node is to read one of its inputs; None if it reads floats."""
        return encoding_at(node, index)

    def reads_encoded(self, node: ir.Node, value: ir.Value | None) -> bool:
        """Tell whether it is decided that ``node`` reads the quantized form of ``value``."""
        return any(
            read is value and encoding_at(node, index) is not None
            for index, read in enumerate(node.inputs)
            if value is not None
        )

    def integer_operands(self, node: ir.Node) -> tuple[Encoding, Encoding] | None:
        """Return the encodings of the input and the weight of a linear layer, if both become integers."""
        activation, weight = encoding_at(node, 0), encoding_at(node, 1)
        if activation is None or weight is None or not (activation.integers and weight.integers):
            return None
        return activation, weight


def name_of(value: ir.Value | None) -> str:
    """Return the value's name; the empty text for an absent input."""
    return value.name or "" if value is not None else ""


def input_of(node: ir.Node, index: int) -> ir.Value | None:
    """Return the node's input, or None where it has none at ``index``."""
    return node.inputs[index] if index < len(node.inputs) else None


def constant_of(value: ir.Value | None) -> NDArray[Any] | None:
    """Return the array of an initializer that no caller can override; None for anything else."""
    tensor = constant_tensor(value)
    return None if tensor is None else tensor.numpy()


def constant_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return the tensor of such an initializer, of which nothing is read or computed yet; else None."""
    if value is None or not value.is_initializer() or value.is_graph_input():
        return None
    return value.const_value


def array_of(value: ir.Value | None) -> NDArray[Any]:
    """Return the array of a constant.

    Raises:
        PreconditionError: ``value`` is no constant.

    """
    return tensor_of(value).numpy()


def tensor_of(value: ir.Value | None) -> ir.TensorProtocol:
    """Return the tensor of a constant.

    Raises:
        PreconditionError: ``value`` is no constant.

    """
    tensor = constant_tensor(value)
    if tensor is None:
        raise PreconditionError("it is no constant", where=f"value {name_of(value)!r}")
    return tensor


def is_float(value: ir.Value | None) -> bool:
    """Tell whether the value is known to be a float32 tensor, and not a sequence of some."""
    return value is not None and isinstance(value.type, ir.TensorType) and value.dtype == ir.DataType.FLOAT


def rank_of(value: ir.Value | None) -> int | None:
    """Return how many axes the value has, or None if that is unknown."""
    return None if value is None or value.shape is None else len(value.shape)


def is_standard(node: ir.Node, *op_types: str) -> bool:
    """Tell whether ``node`` is one of these operators of the standard domain; without any: any of it."""
    return node.domain in ("", "ai.onnx") and (not op_types or node.op_type in op_types)


def sole_reader(value: ir.Value) -> ir.Node | None:
    """Return the one node that reads ``value``.

    None if it has more readers, is an output, or is read in a subgraph.
    """
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return None
    reader = next(iter(uses)).node
    return reader if reader.graph is value.graph else None


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """Return the attribute's plain value, or ``default`` where the node has none."""
    found = node.attributes.get(name)
    return default if found is None else found.value
