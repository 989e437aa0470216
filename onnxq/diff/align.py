"""Which value of one model is which value of another, whatever the two call them.

Four kinds of evidence, the strongest first: equal functions of equal inputs; alike weights; names, as far as
the weights bear them out; and the neighbours of what is aligned already.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import onnx_ir as ir

from onnxq.diff.flat import CONVERTERS, Flat, computed_inputs, family_of, unconverted
from onnxq.diff.numbering import constant_number, number_values
from onnxq.diff.weights import WeightMatch, match_weights, stored_weights
from onnxq.ir.module import name_of

_SCALES = frozenset({"Cast", "Mul"})
"""What follows a product of integers until its result is real again."""


@dataclass(eq=False)
class Alignment:
    """What belongs together.

    Args:
        before: The first model.
        after: The second.
        values: For each aligned value of the first, its counterpart.
        how: For each of them, what it was aligned by.
        nodes: Nodes of the first with the node of the second that computes the same kind of thing.
        weights: The weights that are alike.

    """

    before: Flat
    after: Flat
    values: dict[ir.Value, ir.Value] = field(default_factory=dict)
    how: dict[ir.Value, str] = field(default_factory=dict)
    nodes: dict[ir.Node, ir.Node] = field(default_factory=dict)
    weights: list[WeightMatch] = field(default_factory=list)
    back: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def pair(self, first: ir.Value | None, second: ir.Value | None, how: str) -> bool:
        """Align two values that have no counterpart yet, if their types agree; tell whether it was done."""
        if first is None or second is None or first in self.values or second in self.back:
            return False
        if not _types_agree(first, second):
            return False
        self.values[first], self.back[second], self.how[first] = second, first, how
        return True


def align(before: Flat, after: Flat) -> Alignment:
    """Align two models by function, weights, names and neighbours."""
    found = Alignment(before, after)
    _pair_inputs(found)
    _pair_equal_functions(found)
    found.weights = match_weights(stored_weights(before), stored_weights(after))
    for match in found.weights:
        if match.parts == 1:
            found.nodes.setdefault(match.before.node, match.after.node)
    if _names_agree(found):
        _pair_names(found)
    _pair_products(found)
    _pair_by_position(found, before.outputs, after.outputs)
    _spread(found)
    return found


def _types_agree(first: ir.Value, second: ir.Value) -> bool:
    if first.dtype is None or second.dtype is None:
        return True
    return first.dtype == second.dtype or (
        first.dtype.is_floating_point() and second.dtype.is_floating_point()
    )


def _pair_inputs(found: Alignment) -> None:
    theirs = {value.name: value for value in found.after.inputs}
    for value in found.before.inputs:
        found.pair(value, theirs.get(value.name), "names")
    _pair_by_position(found, found.before.inputs, found.after.inputs)


def _pair_by_position(found: Alignment, ours: Sequence[ir.Value], theirs: Sequence[ir.Value]) -> None:
    """Pair values of the model's border that no name paired, in their order, if they are equally many."""
    left = [value for value in ours if value not in found.values]
    right = [value for value in theirs if value not in found.back]
    if len(left) == len(right):
        for first, second in zip(left, right, strict=True):
            found.pair(first, second, "structure")


def _pair_equal_functions(found: Alignment) -> None:
    """Pair what computes the same from the paired inputs, bit for bit."""
    leaves = {value: f"pair {place}" for place, value in enumerate(found.values)}
    theirs = {found.values[value]: leaf for value, leaf in leaves.items()}
    groups: dict[str, list[ir.Value]] = defaultdict(list)
    for value, number in number_values(found.after, theirs).items():
        groups[number].append(value)
    for value, number in number_values(found.before, leaves).items():
        for other in sorted(groups.get(number, ()), key=lambda one: one.name != value.name):
            if found.pair(value, other, "structure"):
                break


def _names_agree(found: Alignment) -> bool:
    """Tell whether nodes with alike weights also have the same names, where names meet at all."""
    theirs = {name_of(value): value for value in found.after.values()}
    agree = differ = 0
    for match in found.weights:
        other = theirs.get(name_of(match.before.node.outputs[0]))
        if other is not None and match.before.node in found.nodes:
            same = found.nodes[match.before.node] in _makers(other)
            agree, differ = agree + same, differ + (not same)
    return agree >= differ


def _makers(value: ir.Value) -> Iterator[ir.Node]:
    """Yield the maker of ``value``, and those before it that only scale an integer product or add to it."""
    node = value.producer()
    while node is not None:
        yield node
        if node.op_type not in _SCALES | CONVERTERS | {"Add", "Sum"}:
            return
        inputs = (one.producer() for one in node.inputs if one is not None)
        node = next((maker for maker in inputs if maker is not None), None)


def _pair_names(found: Alignment) -> None:
    theirs = {value.name: value for value in found.after.values() if value.name and not _is_quantized(value)}
    for value in found.before.values():
        if value.name and not _is_quantized(value):
            found.pair(value, theirs.get(value.name), "names")


def _is_quantized(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and node.op_type in CONVERTERS


def _pair_products(found: Alignment) -> None:
    """Pair inputs and results of products with alike weights."""
    for match in found.weights:
        first, second = match.before.node, match.after.node
        for ours, theirs in zip(computed_inputs(first)[:1], computed_inputs(second)[:1], strict=False):
            if family_of(first) != "Gather":
                found.pair(ours, theirs, "weights")
        if match.parts == 1 and match.after.node.op_type != "Attention":
            result = _real_result(found.after, second)
            found.pair(_biased(found.before, first) if _adds(second) else first.outputs[0], result, "weights")


def _real_result(flat: Flat, node: ir.Node) -> ir.Value:
    """Return the product as real numbers: behind the scaling that follows a product of integers."""
    value = node.outputs[0]
    while node.op_type in ("MatMulInteger", "ConvInteger") or node.op_type in _SCALES:
        readers = flat.readers.get(value, ())
        if len(readers) != 1 or readers[0].op_type not in _SCALES:
            return value
        node = readers[0]
        value = node.outputs[0]
    return value


def _adds(node: ir.Node) -> bool:
    """Tell whether the node adds a bias itself."""
    places = {"MatMulIntegerToFloat": 6, "DynamicQuantizeMatMul": 4, "Gemm": 2, "FusedGemm": 2}
    place = places.get(node.op_type)
    return place is not None and len(node.inputs) > place and node.inputs[place] is not None


def _biased(flat: Flat, node: ir.Node) -> ir.Value:
    """Return the result with its bias: that of the only reader, if it adds a constant."""
    value = node.outputs[0]
    readers = flat.readers.get(value, ())
    if len(readers) == 1 and readers[0].op_type == "Add":
        others = [one for one in readers[0].inputs if one is not value]
        if others and others[0] is not None and others[0].const_value is not None:
            return readers[0].outputs[0]
    return value


def _spread(found: Alignment) -> None:
    """Go from what is aligned to its neighbours, until nothing new is found."""
    pending = list(found.values.items())
    while pending:
        new: list[tuple[ir.Value, ir.Value]] = []
        for first, second in pending:
            for ours, theirs in (*_behind(found, first, second), *_ahead(found, first, second)):
                if found.pair(ours, theirs, "neighbours"):
                    new.append((ours, theirs))
        pending = new


def _behind(found: Alignment, first: ir.Value, second: ir.Value) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Yield the inputs of two makers of the same kind, in their order."""
    ours, theirs = first.producer(), unconverted(second).producer()
    if ours is None or theirs is None or family_of(ours) != family_of(theirs):
        return
    found.nodes.setdefault(ours, theirs)
    left = [value for value in computed_inputs(ours) if value not in found.values]
    right = [value for value in computed_inputs(theirs) if value not in found.back]
    if len(left) != len(right):
        return
    for one, other in zip(left, right, strict=True):
        maker, other_maker = one.producer(), other.producer()
        if maker is not None and other_maker is not None and family_of(maker) == family_of(other_maker):
            yield one, other


def _ahead(found: Alignment, first: ir.Value, second: ir.Value) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Yield the results of readers of the same kind, all of whose inputs are aligned."""
    ours = _ready(found.before.real_readers(first), found.values)
    theirs = _ready(found.after.real_readers(second), found.back)
    for family, nodes in ours.items():
        others = theirs.get(family, [])
        for node, other in zip(nodes, others, strict=False):
            wanted = [found.values.get(value) for value in computed_inputs(node)]
            if len(nodes) == len(others) and set(wanted) == set(computed_inputs(other)):
                for one, another in zip_longest(node.outputs, other.outputs):
                    if one is not None and another is not None and family != "Attention":
                        yield one, another


def _ready(nodes: Iterable[ir.Node], known: dict[ir.Value, ir.Value]) -> dict[str, list[ir.Node]]:
    """Return nodes whose inputs are known and whose first output is not, by what they compute and read."""
    found: dict[str, list[ir.Node]] = defaultdict(list)
    for node in dict.fromkeys(nodes):
        if node.outputs[0] not in known and all(value in known for value in computed_inputs(node)):
            constants = [constant_number(value) for value in node.inputs if value is not None]
            small = sum(number is not None for number in constants)
            found[f"{family_of(node)} {small if family_of(node) == 'Gather' else ''}"].append(node)
    return found
