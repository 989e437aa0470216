"""One element of a value, computed for an index of symbols: what a graph does with positions and lengths.

Each operator has a rule that says how an element of its output comes from elements of its inputs. What comes
out holds for all lengths, as nothing was tried. Lengths of one name are one length, and axes that meet are
taken to be of one length.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir
import sympy

from onnxq.analysis.cases import (
    AtMostZero,
    Cases,
    Element,
    Expression,
    Index,
    IsSet,
    UnreadableError,
    all_conditions,
    by_case,
    truth_of,
)
from onnxq.ir.module import attribute, constant_of, input_of, is_standard, name_of, rank_of

ZERO = sympy.Integer(0)
MOST_STEPS, DEEPEST = 2000, 100
"""So many elements and lengths are asked for at most, and so many within each other; masks take dozens."""
LENGTH = "length "
"""How the name of a length begins."""


@dataclass
class Reader:
    """Reads elements of values; remembers which input stands for which function of an index."""

    inputs: dict[str, ir.Value] = field(default_factory=dict)
    steps: int = 0
    depth: int = 0

    def element(self, value: ir.Value | None, index: Index) -> Element:
        """Return one element of ``value``.

        Raises:
            UnreadableError: An operator on the way has no rule, or does something that is not followed.

        """
        if value is None or rank_of(value) != len(index):
            raise UnreadableError
        with self._deeper():
            return self._element(value, index)

    @contextmanager
    def _deeper(self) -> Iterator[None]:
        self.steps, self.depth = self.steps + 1, self.depth + 1
        if self.steps > MOST_STEPS or self.depth > DEEPEST:
            raise UnreadableError
        yield
        self.depth -= 1

    def _element(self, value: ir.Value, index: Index) -> Element:
        constant = constant_of(value)
        if constant is not None:
            return _number_in(constant, index)
        node = value.producer()
        if node is None:
            return self._read(value, index)
        rule = RULES.get(node.op_type) if is_standard(node, node.op_type) else None
        if rule is None:
            raise UnreadableError
        return rule(self, node, index)

    def _read(self, value: ir.Value, index: Index) -> Element:
        """Return an element of an input of the model, as a function of its index."""
        if not value.is_graph_input() or value.dtype is None or value.dtype.is_floating_point():
            raise UnreadableError
        self.inputs[name_of(value)] = value
        found: Expression = sympy.Function(name_of(value), integer=True)(*index)
        return self.truth(found) if value.dtype is ir.DataType.BOOL else found

    def integer(self, value: ir.Value | None, index: Index) -> Expression:
        """Return one element of an integer value."""
        found = self.element(value, index)
        if isinstance(found, Cases):
            raise UnreadableError
        return found

    def truth(self, element: Element) -> Cases:
        """Return a number, or an input's element, as cases."""
        if isinstance(element, sympy.core.function.AppliedUndef):
            condition = IsSet(self.inputs[element.func.__name__], element.args)
            return Cases(frozenset([condition]), 1.0, 0.0)
        return truth_of(element)

    def scalar(self, value: ir.Value | None) -> Expression:
        """Return the only element of an integer value."""
        return self.integer(value, (ZERO,) * (rank_of(value) or 0))

    def length(self, value: ir.Value, axis: int) -> Expression:
        """Return the length of an axis: a number, or a symbol; one length has one symbol.

        Raises:
            UnreadableError: Nobody knows it, or the value has no such axis.

        """
        if value.shape is None or not 0 <= axis < len(value.shape):
            raise UnreadableError
        with self._deeper():
            return self._length(value, value.shape, axis)

    def _length(self, value: ir.Value, shape: ir.Shape, axis: int) -> Expression:
        size, node = shape[axis], value.producer()
        if isinstance(size, int):
            return sympy.Integer(size)
        if node is not None and is_standard(node, "Cast", "Not", "Identity"):
            return self.length(_first(node), axis)
        if node is not None and is_standard(node, "Gather") and attribute(node, "axis", 0) == 0:
            return self._length_of_gathered(node, axis)
        if node is not None and is_standard(node, "Reshape"):
            return self._length_of_reshaped(node, axis)
        if node is not None and is_standard(node, "Range"):
            return sympy.expand(self.scalar(node.inputs[1]) - self.scalar(node.inputs[0]))
        if size == ir.SymbolicDim(None):
            raise UnreadableError
        return _length_symbol(str(size).split(" + "))

    def _length_of_gathered(self, node: ir.Node, axis: int) -> Expression:
        table, indices = _first(node), input_of(node, 1)
        rank = rank_of(indices)
        if indices is None or rank is None:
            raise UnreadableError
        return self.length(indices, axis) if axis < rank else self.length(table, axis - rank + 1)

    def _length_of_reshaped(self, node: ir.Node, axis: int) -> Expression:
        """Return what the operand says; -1 is what is left of the input's lengths without the others."""
        source, shape = _first(node), input_of(node, 1)
        rank = rank_of(node.outputs[0]) or 0
        wanted = [self.integer(shape, (sympy.Integer(at),)) for at in range(rank)]
        if wanted[axis] == 0:
            return self.length(source, axis)
        if wanted[axis] != -1:
            return wanted[axis]
        left = [self.length(source, at) for at in range(rank_of(source) or 0)]
        for at, size in enumerate(wanted):
            if at != axis:
                size = self.length(source, at) if size == 0 else size
                if size != 1 and size not in left:
                    raise UnreadableError
                left = _without_one(left, size)
        return sympy.Mul(*left)

    def reshaped(self, node: ir.Node, index: Index) -> Element:
        """Return an element of a Reshape or Flatten: counted in a row, and found again in the input."""
        source, output = _first(node), node.outputs[0]
        place = ZERO
        for axis, at in enumerate(index):
            size = _as_one(self.length(output, axis))
            place = sympy.expand(place if at == 0 and place == 0 else place * size + at)
        sizes = [_as_one(self.length(source, axis)) for axis in range(rank_of(source) or 0)]
        return self.element(source, _unfolded(place, sizes))


def _length_symbol(names: Iterable[str]) -> Expression:
    """Return the length that is called so, or that is the sum of lengths that are; in any order."""
    return sympy.Symbol(f"{LENGTH}{' + '.join(sorted(names))}", integer=True)


def _as_one(length: Expression) -> Expression:
    """Return the symbol of a sum of lengths, as inference calls the length of what is joined."""
    parts = [str(part) for part in length.args] if length.is_Add else []
    named = parts and all(part.is_Symbol and str(part).startswith(LENGTH) for part in length.args)
    return _length_symbol(part.removeprefix(LENGTH) for part in parts) if named else length


def _unfolded(place: Expression, sizes: Sequence[Expression]) -> Index:
    """Return the index of what is at ``place`` in a row; each length but the first is a 1 or a symbol."""
    if not sizes:
        return ()
    if len(sizes) == 1:
        return (place,)
    found: list[Expression] = []
    for size in reversed(sizes[1:]):
        if size == 1:
            found.append(ZERO)
            continue
        if not size.is_Symbol:
            raise UnreadableError
        whole = sympy.expand(place.coeff(size, 1))
        rest = sympy.expand(place - whole * size)
        if rest.has(size):
            raise UnreadableError
        found.append(rest)
        place = whole
    if any(str(symbol).startswith(LENGTH) for one in (place, *found) for symbol in one.free_symbols):
        raise UnreadableError  # it was folded in another way
    return (place, *reversed(found))


def _without_one(sizes: list[Expression], size: Expression) -> list[Expression]:
    at = sizes.index(size) if size in sizes else None
    return sizes if at is None else sizes[:at] + sizes[at + 1 :]


def _first(node: ir.Node) -> ir.Value:
    if node.inputs[0] is None:
        raise UnreadableError
    return node.inputs[0]


def _number_in(constant: Any, index: Index) -> Element:
    """Return an element of a constant: of a known index, or of an array that holds one number alone."""
    if constant.size and bool((constant == constant.reshape(-1)[0]).all()):
        number = constant.reshape(-1)[0]
    elif all(at.is_Integer for at in index) and len(index) == constant.ndim:
        number = constant[tuple(int(at) for at in index)]
    else:
        raise UnreadableError
    if constant.dtype.kind in "iu":
        return sympy.Integer(int(number))
    return Cases(frozenset(), float(number), float(number))


def aligned(value: ir.Value, index: Index) -> Index:
    """Return the index into what is broadcast to a value of that index."""
    if value.shape is None or len(value.shape) > len(index):
        raise UnreadableError
    own = index[len(index) - len(value.shape) :]
    return tuple(ZERO if size == 1 else at for size, at in zip(value.shape, own, strict=True))


def _operands(reader: Reader, node: ir.Node, index: Index) -> list[Element]:
    found = []
    for value in node.inputs:
        if value is None:
            raise UnreadableError
        found.append(reader.element(value, aligned(value, index)))
    return found


def _arithmetic(function: Callable[..., Any]) -> Rule:
    def rule(reader: Reader, node: ir.Node, index: Index) -> Element:
        operands = _operands(reader, node, index)
        if any(isinstance(one, Cases) for one in operands):
            return by_case(function, [reader.truth(one) for one in operands])
        found: Expression = sympy.expand(function(*operands))
        return found

    return rule


def _add(reader: Reader, node: ir.Node, index: Index) -> Element:
    """Add; of two masks, what is ruled out by either is ruled out."""
    operands = _operands(reader, node, index)
    if all(isinstance(one, Cases) and one.yes == 0 > one.no for one in operands):
        cases = [reader.truth(one) for one in operands]
        return Cases(all_conditions(cases), 0.0, max(one.no for one in cases))
    return _arithmetic(operator.add)(reader, node, index)


def _joint(yes: float) -> Rule:
    """Return the rule of And, or of Or on what is the other way round: all conditions together."""

    def rule(reader: Reader, node: ir.Node, index: Index) -> Element:
        cases = [reader.truth(one) for one in _operands(reader, node, index)]
        neutral = [one for one in cases if one.conditions or one.yes != yes]
        if any((one.yes, one.no) != (yes, 1 - yes) for one in neutral):
            raise UnreadableError
        return Cases(all_conditions(neutral), yes, 1 - yes if neutral else yes)

    return rule


def _comparison(function: Callable[[Any, Any], bool], below: Callable[[Any, Any], Expression]) -> Rule:
    """Return the rule of an operator that compares; ``below`` is not positive where it holds for integers."""

    def rule(reader: Reader, node: ir.Node, index: Index) -> Element:
        """Compare truths case by case; of positions and lengths, note the condition."""
        operands = _operands(reader, node, index)
        cases = any(isinstance(one, Cases) for one in operands)
        flags = [isinstance(one, sympy.core.function.AppliedUndef) for one in operands]
        if cases or (any(flags) and any(one.is_Integer for one in operands)):
            return by_case(function, [reader.truth(one) for one in operands])
        condition = AtMostZero(sympy.expand(below(*operands)))
        return Cases(frozenset([condition]), 1.0, 0.0)

    return rule


def _equal(reader: Reader, node: ir.Node, index: Index) -> Element:
    return by_case(operator.eq, [reader.truth(one) for one in _operands(reader, node, index)])


def _where(reader: Reader, node: ir.Node, index: Index) -> Element:
    cases = [reader.truth(one) for one in _operands(reader, node, index)]
    return by_case(lambda condition, yes, no: yes if condition else no, cases)


def _not(reader: Reader, node: ir.Node, index: Index) -> Element:
    return by_case(lambda one: not one, [reader.truth(reader.element(_first(node), index))])


def _cast(reader: Reader, node: ir.Node, index: Index) -> Element:
    """Cast; integers that are no 0 or 1 stay integers."""
    found, to = reader.element(_first(node), index), ir.DataType(attribute(node, "to", 0))
    if to is ir.DataType.BOOL:
        return by_case(lambda one: one != 0, [reader.truth(found)])
    return reader.truth(found) if to.is_floating_point() else found


def _clip(reader: Reader, node: ir.Node, index: Index) -> Element:
    """Clip a mask; what is not clipped away is as far below 0 as the constant is."""
    found = reader.truth(reader.element(_first(node), index))
    bounds = [_number_in(array, ()) for array in map(constant_of, node.inputs[1:]) if array is not None]
    if len(bounds) != 2 or not found.yes == 0 > found.no:
        raise UnreadableError
    low, high = (truth_of(one).yes for one in bounds)
    if not low < 0 <= high:
        raise UnreadableError
    return found


def _same(reader: Reader, node: ir.Node, index: Index) -> Element:
    return reader.element(_first(node), aligned(_first(node), index))


def _unsqueeze(reader: Reader, node: ir.Node, index: Index) -> Element:
    axes = {axis % len(index) for axis in _numbers(input_of(node, 1))}
    return reader.element(_first(node), tuple(at for axis, at in enumerate(index) if axis not in axes))


def _gather(reader: Reader, node: ir.Node, index: Index) -> Element:
    source, places = _first(node), input_of(node, 1)
    axis, rank = attribute(node, "axis", 0) % (rank_of(source) or 1), rank_of(places)
    if rank is None:
        raise UnreadableError
    place = reader.integer(places, index[axis : axis + rank])
    if place.is_negative:
        place += reader.length(source, axis)
    return reader.element(source, (*index[:axis], place, *index[axis + rank :]))


def _range(reader: Reader, node: ir.Node, index: Index) -> Element:
    start, _, step = node.inputs
    if reader.scalar(step) != 1:
        raise UnreadableError
    return sympy.expand(reader.scalar(start) + index[0])


def _shape(reader: Reader, node: ir.Node, index: Index) -> Element:
    start, rank = attribute(node, "start", 0), rank_of(node.inputs[0])
    if not index[0].is_Integer or rank is None:
        raise UnreadableError
    return reader.length(_first(node), int(index[0]) + (start + rank if start < 0 else start))


def _slice(reader: Reader, node: ir.Node, index: Index) -> Element:
    starts = _numbers(input_of(node, 1))
    axes = _numbers(input_of(node, 3)) if input_of(node, 3) else list(range(len(starts)))
    steps = _numbers(input_of(node, 4)) if input_of(node, 4) else [1] * len(starts)
    if any(step != 1 for step in steps) or any(start < 0 for start in starts):
        raise UnreadableError
    moved = list(index)
    for axis, start in zip(axes, starts, strict=True):
        moved[axis] = moved[axis] + start
    return reader.element(_first(node), tuple(moved))


def _concat(reader: Reader, node: ir.Node, index: Index) -> Element:
    """Return an element whose place on the axis of joining is known: in which input it lies."""
    axis = attribute(node, "axis", 0) % len(index)
    at = index[axis]
    if not at.is_Integer or at < 0:
        raise UnreadableError
    for value in node.inputs:
        size = None if value is None or value.shape is None else value.shape[axis]
        if not isinstance(size, int):
            raise UnreadableError
        if at < size:
            return reader.element(value, (*index[:axis], at, *index[axis + 1 :]))
        at -= size
    raise UnreadableError


def _squeeze(reader: Reader, node: ir.Node, index: Index) -> Element:
    source = _first(node)
    shape = tuple(source.shape or ())
    ones = [axis for axis, size in enumerate(shape) if size == 1]
    axes = {axis % len(shape) for axis in _numbers(input_of(node, 1))} if input_of(node, 1) else set(ones)
    if len(axes) + len(index) != len(shape):
        raise UnreadableError
    left = iter(index)
    return reader.element(source, tuple(ZERO if axis in axes else next(left) for axis in range(len(shape))))


def _gather_elements_at(reader: Reader, node: ir.Node, index: Index) -> Element:
    """GatherND whose indices are those of single elements."""
    source, places = _first(node), input_of(node, 1)
    rank = rank_of(source) or 0
    depth = None if places is None or places.shape is None else places.shape[-1]
    if attribute(node, "batch_dims", 0) or depth != rank:
        raise UnreadableError
    at = [reader.integer(places, (*index, sympy.Integer(axis))) for axis in range(rank)]
    return reader.element(source, tuple(at))


def _numbers(value: ir.Value | None) -> list[int]:
    constant = constant_of(value)
    if constant is None:
        raise UnreadableError
    return [int(one) for one in constant.reshape(-1)]


Rule = Callable[[Reader, ir.Node, Index], Element]

RULES: dict[str, Rule] = {
    "Add": _add,
    "And": _joint(1.0),
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Equal": _equal,
    "Expand": _same,
    "Flatten": Reader.reshaped,
    "Gather": _gather,
    "GatherND": _gather_elements_at,
    "Greater": _comparison(operator.gt, lambda one, other: other - one + 1),
    "GreaterOrEqual": _comparison(operator.ge, lambda one, other: other - one),
    "Identity": _same,
    "Less": _comparison(operator.lt, lambda one, other: one - other + 1),
    "LessOrEqual": _comparison(operator.le, lambda one, other: one - other),
    "Mul": _arithmetic(operator.mul),
    "Not": _not,
    "Or": _joint(0.0),
    "Range": _range,
    "Reshape": Reader.reshaped,
    "Shape": _shape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": _arithmetic(operator.sub),
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
"""How an element of each operator's output comes from elements of its inputs."""
