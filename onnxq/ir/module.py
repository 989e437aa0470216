"""A graph with what is known and what was decided about its values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.errors import PreconditionError
from onnxq.quant.encodings import Encoding
from onnxq.quant.facts import Facts


@dataclass(frozen=True)
class Decision:
    """The encoding that a value shall get, and who reads it.

    Args:
        encoding: How the value is quantized.
        readers: Names of the nodes that read the quantized value; None means all of them.

    """

    encoding: Encoding
    readers: frozenset[str] | None = None

    def read_by(self, node: ir.Node) -> bool:
        """Tell whether ``node`` reads the quantized value."""
        return self.readers is None or node.name in self.readers


@dataclass
class GraphModule:
    """An ordinary ``onnx_ir`` model, with facts and decisions by value name beside it.

    Args:
        model: The model; change it through the Editor only.
        facts: What calibration measured.
        decisions: What passes decided; empty again once the decisions are realised.

    """

    model: ir.Model
    facts: dict[str, Facts] = field(default_factory=dict)
    decisions: dict[str, Decision] = field(default_factory=dict)

    @property
    def graph(self) -> ir.Graph:
        """The main graph."""
        return self.model.graph

    @property
    def opset(self) -> int:
        """The version of the standard operators."""
        return self.graph.opset_imports.get("", 0)

    def clone(self) -> GraphModule:
        """Return a copy to change; the weights are shared, as tensors do not change."""
        return GraphModule(self.model.clone(), dict(self.facts), dict(self.decisions))

    def values(self) -> Iterator[ir.Value]:
        """Yield inputs, initializers and node outputs of the main graph."""
        yield from self.graph.inputs
        yield from self.graph.initializers.values()
        for node in self.graph:
            yield from node.outputs

    def reads_encoded(self, node: ir.Node, value: ir.Value | None) -> bool:
        """Tell whether it is decided that ``node`` reads the quantized form of ``value``."""
        decision = self.decisions.get(name_of(value))
        return decision is not None and decision.read_by(node)

    def multiplies_integers(self, node: ir.Node) -> bool:
        """Tell whether it is decided that a linear layer reads both its input and its weight as integers."""
        return all(
            self.reads_encoded(node, value) and self.decisions[name_of(value)].encoding.integers
            for value in node.inputs[:2]
        )

    def _repr_html_(self) -> str:
        """Show the operators in a notebook; ``onnxq.ir.overview`` tells more."""
        from onnxq.report.html import table_html
        from onnxq.report.tables import Table

        counts = Counter(node.op_type for node in self.graph)
        rows = tuple((op_type, str(count)) for op_type, count in sorted(counts.items()))
        return table_html(Table("Operators", ("operator", "nodes"), rows))

    def value(self, name: str) -> ir.Value | None:
        """Return the value of the main graph with this name, if there is one."""
        return next((value for value in self.values() if value.name == name), None)


def name_of(value: ir.Value | None) -> str:
    """Return the value's name; the empty text for an absent input."""
    return value.name or "" if value is not None else ""


def input_of(node: ir.Node, index: int) -> ir.Value | None:
    """Return the node's input, or None where it has none at ``index``."""
    return node.inputs[index] if index < len(node.inputs) else None


def constant_of(value: ir.Value | None) -> NDArray[Any] | None:
    """Return the array of an initializer that no caller can override; None for anything else."""
    if value is None or value.const_value is None or not value.is_initializer() or value.is_graph_input():
        return None
    return value.const_value.numpy()


def array_of(value: ir.Value | None) -> NDArray[Any]:
    """Return the array of a constant.

    Raises:
        PreconditionError: ``value`` is no constant.

    """
    array = constant_of(value)
    if array is None:
        raise PreconditionError("it is no constant", where=f"value {name_of(value)!r}")
    return array


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
