"""Adding nodes and constants to a graph: each has a name of its own, and a reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.errors import PassError
from onnxq.ir.module import GraphModule, name_of
from onnxq.ir.records import Edit
from onnxq.rewrite.keeping import Keeper


@dataclass
class Writer:
    """Adds to the graph of one module, keeps names unique, and records why.

    Args:
        module: The module whose main graph is changed.
        edits: What was done, in order.
        keeper: Knows what is decided, from the editor before; None to look at the module.

    """

    module: GraphModule
    edits: list[Edit] = field(default_factory=list)
    keeper: Keeper | None = None

    def __post_init__(self) -> None:
        """Remember up to which number names alike are taken."""
        self._taken: dict[str, int] = {}
        self._replaced: dict[ir.Value, str] = {}
        self._keeper = self.keeper or Keeper(self.module)

    @cached_property
    def _names(self) -> set[str]:
        """Every name in use."""
        return names_in(self.module.graph)

    def _look_at_names_again(self) -> None:
        """Forget which names are in use, for whoever asks next."""
        self.__dict__.pop("_names", None)
        self._taken.clear()

    def constant(
        self, name: str, array: NDArray[Any], *, why: str, dtype: ir.DataType | None = None
    ) -> ir.Value:
        """Add an initializer called ``name``, or like it if that is taken."""
        tensor = ir.Tensor(np.ascontiguousarray(array).reshape(array.shape), dtype=dtype)
        return self.tensor(name, tensor, why=why)

    def tensor(self, name: str, tensor: ir.TensorProtocol, *, why: str) -> ir.Value:
        """Add the same of a tensor, which is not looked into."""
        unique = tensor.name = self._unique(name)
        kind, shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
        value = ir.Value(name=unique, type=kind, shape=shape, const_value=tensor)
        self.module.graph.register_initializer(value)
        self._record("add constant", unique, why)
        return value

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        outputs: Sequence[str],
        *,
        why: str,
        attributes: Mapping[str, Any],
        domain: str = "",
        before: ir.Node | None = None,
        after: ir.Node | None = None,
    ) -> ir.Node:
        """Add a node, with outputs called like these and itself like the first of them, and return it.

        It goes ``before`` or ``after`` a node, or to the front of the graph.
        """
        self._check_current(inputs)
        values = [ir.Value(name=self._unique(name)) for name in outputs]
        node = ir.Node(
            domain, op_type, inputs, plain_attributes(attributes), outputs=values, name=values[0].name
        )
        self.module.model.opset_imports.setdefault(domain, 1)
        self._place(node, before, after)
        self._keeper.made.append(node)
        self._record(f"add {op_type}", name_of(values[0]), why)
        return node

    def _place(self, node: ir.Node, before: ir.Node | None, after: ir.Node | None) -> None:
        graph = self.module.graph
        first = before or (None if after is not None else next(iter(graph), None))
        if after is not None:
            graph.insert_after(after, node)
        elif first is not None:
            graph.insert_before(first, node)
        else:
            graph.append(node)

    def _check_current(self, values: Iterable[ir.Value | None]) -> None:
        """Refuse values that others were put in the place of.

        Raises:
            PassError: One of ``values`` is such a value.

        """
        for value in values:
            if value in self._replaced:
                raise PassError(
                    "the pass put another value in its place, and reads it still",
                    where=f"value {self._replaced[value]!r}",
                )

    def _record(self, action: str, subject: str, why: str) -> None:
        self.edits.append(Edit(action, subject, why))

    def _unique(self, name: str) -> str:
        candidate, count = name, self._taken.get(name, 0)
        while candidate in self._names:
            count += 1
            candidate = f"{name}_{count}"
        self._taken[name] = count
        self._names.add(candidate)
        return candidate


def plain_attributes(plain: Mapping[str, Any]) -> Sequence[ir.Attr]:
    """Return attributes of plain values; those that are None are left to the operator's defaults."""
    return ir.convenience.convert_attributes({k: v for k, v in plain.items() if v is not None})


def names_in(graph: ir.Graph) -> set[str]:
    """Return the names of all values and nodes, those of subgraphs included."""
    names = {name_of(value) for value in (*graph.inputs, *graph.initializers.values())}
    for node in graph.all_nodes():
        names.add(node.name or "")
        names.update(name_of(value) for value in node.outputs)
        for attr in node.attributes.values():
            if attr.type == ir.AttributeType.GRAPH:
                names.update(name_of(value) for value in attr.as_graph().inputs)
                names.update(attr.as_graph().initializers)
    return names
