"""Which nodes became which: both graphs are cut at the aligned values, and what lies between is compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxq.diff.align import Alignment
from onnxq.diff.flat import Flat, family_of, is_product, subgraphs
from onnxq.diff.numbering import number_values, operator_text

SHORT = {"QuantizeLinear": "Q", "DequantizeLinear": "DQ"}
_LONGEST = 6


@dataclass(frozen=True, eq=False)
class Change:
    """What computes one aligned value, in both models.

    Args:
        kind: ``same``, ``rewritten`` (the same operators, with other constants or attributes), ``replaced``
            (other operators), ``added`` or ``removed``.
        before: Nodes of the first model, in order.
        after: Nodes of the second. One that several values share, as a QuantizeLinear does, stands in each.
        how: What the value was aligned by; empty for what is added or removed.
        value: The aligned value in the first model.
        counterpart: That in the second.

    """

    kind: str
    before: tuple[ir.Node, ...]
    after: tuple[ir.Node, ...]
    how: str = ""
    value: ir.Value | None = None
    counterpart: ir.Value | None = None

    @property
    def pattern(self) -> str:
        """The operators before and after, such as ``Linear -> Q, MatMulIntegerToFloat``."""
        if self.kind == "added":
            return f"+ {operators(self.after)}"
        if self.kind == "removed":
            return f"- {operators(self.before)}"
        if self.kind in ("same", "rewritten"):
            return operators(self.before)
        return f"{operators(self.before)} -> {operators(self.after)}"


def find_changes(found: Alignment) -> list[Change]:
    """Return one change for each aligned value, and one for each node that computes none, in order."""
    owned_a, owned_b = set[ir.Node](), set[ir.Node]()
    numbers = _local_numbers(found)
    changes = []
    for value, other in sorted(found.values.items(), key=lambda pair: _place(found.before, pair[0])):
        before = region(found.before, value, found.values)
        after = region(found.after, other, found.back)
        if (before or after) and not (owned_a.issuperset(before) and owned_b.issuperset(after)):
            same = numbers[0].get(value) == numbers[1].get(other)
            changes.append(_change(found, value, other, before, after, same=same))
            owned_a.update(before)
            owned_b.update(after)
    changes += [Change("removed", (node,), ()) for node in found.before.nodes if node not in owned_a]
    changes += [Change("added", (), (node,)) for node in found.after.nodes if node not in owned_b]
    return changes


def region(flat: Flat, value: ir.Value, borders: Collection[ir.Value]) -> tuple[ir.Node, ...]:
    """Return the nodes that compute ``value`` from values in ``borders``, in order."""
    found, pending = set[ir.Node](), [value]
    while pending:
        node = pending.pop().producer()
        if node is None or node in found:
            continue
        found.add(node)
        inner = (one for graph in subgraphs(node) for one in graph.outputs)
        pending += [one for one in (*node.inputs, *inner) if one is not None and one not in borders]
    return tuple(sorted(found, key=flat.place.__getitem__))


def counterparts(found: Alignment, changes: Sequence[Change]) -> dict[ir.Node, tuple[ir.Node, ...]]:
    """Return what each product of the first model became: products or attention of the second.

    Products without weights, of which one value may have several, are taken in their order.
    """
    parts: dict[ir.Node, tuple[ir.Node, ...]] = {}
    for match in found.weights:
        parts[match.before.node] = (match.after.node,)
    taken = {heir for heirs in parts.values() for heir in heirs}
    for change in changes:
        lost = [node for node in change.before if is_product(node) and node not in parts]
        heirs = [node for node in change.after if is_product(node) and node not in taken]
        fused = [node for node in change.after if family_of(node) == "Attention"]
        if [family_of(node) for node in lost] == [family_of(node) for node in heirs]:
            parts.update({node: (heir,) for node, heir in zip(lost, heirs, strict=True)})
        elif heirs or fused:
            parts.update(dict.fromkeys(lost, (*heirs, *fused)))
    return parts


def operators(nodes: Sequence[ir.Node]) -> str:
    """Return the operators in order, repeated ones counted; a product with its bias is ``Linear``."""
    names = list(_shortened(nodes))
    counts = Counter(names)
    shown = [name if count == 1 else f"{count} {name}" for name, count in counts.items()]
    more = len(shown) - _LONGEST
    return ", ".join(shown[:_LONGEST]) + (f" and {more} more" if more > 0 else "") or "nothing"


def _shortened(nodes: Sequence[ir.Node]) -> Iterator[str]:
    biases = {node for node in nodes if _is_bias(node, nodes)}
    for node in nodes:
        if node in biases:
            continue
        biased = any(reader in biases for value in node.outputs for reader, _ in value.uses())
        linear = node.op_type == "Gemm" or (node.op_type == "MatMul" and biased)
        yield "Linear" if linear else SHORT.get(node.op_type, node.op_type)


def _is_bias(node: ir.Node, nodes: Sequence[ir.Node]) -> bool:
    """Tell whether the node adds a constant to the result of a MatMul among ``nodes``."""
    makers = [value.producer() for value in node.inputs if value is not None and value.const_value is None]
    if node.op_type != "Add" or len(makers) != 1:
        return False
    return any(maker is makers[0] and maker.op_type == "MatMul" for maker in nodes)


def _place(flat: Flat, value: ir.Value) -> int:
    node = value.producer()
    return -1 if node is None else flat.place[node]


def _local_numbers(found: Alignment) -> tuple[dict[ir.Value, str], dict[ir.Value, str]]:
    """Return the numbers of all values of both models as functions of the aligned ones."""
    leaves = {value: f"pair {place}" for place, value in enumerate(found.values)}
    theirs = {found.values[value]: leaf for value, leaf in leaves.items()}
    return number_values(found.before, leaves), number_values(found.after, theirs)


def _change(
    found: Alignment,
    value: ir.Value,
    other: ir.Value,
    before: tuple[ir.Node, ...],
    after: tuple[ir.Node, ...],
    *,
    same: bool,
) -> Change:
    if same:
        kind = "same"
    elif not before or not after:
        kind = "added" if after else "removed"
    else:
        kind = "rewritten" if _kinds(before) == _kinds(after) else "replaced"
    return Change(kind, before, after, found.how[value], value, other)


def _kinds(nodes: Sequence[ir.Node]) -> Counter[str]:
    return Counter(operator_text(node).split(" ")[0] for node in nodes)
