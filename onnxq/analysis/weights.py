"""What a weight is: a constant that an operator multiplies.

One table says, for each operator, which of its inputs it multiplies and which axis of them counts what it
gives: values along that axis never meet in a sum, so that each may have a scale of its own. It holds in the
main graph and in the bodies of If, Loop and Scan alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from onnxq.ir.module import attribute, constant_tensor, is_float, is_standard, rank_of

Axis = Callable[[ir.Node, int], int]
"""Which axis of an input counts channels of the output, by the node and the input's number of axes."""


@dataclass(frozen=True)
class Weight:
    """One constant that a node multiplies.

    Args:
        node: The reader.
        index: Which of its inputs it is.
        axis: The axis of ``value`` that counts channels of the output.

    """

    node: ir.Node
    index: int
    axis: int

    @property
    def value(self) -> ir.Value:
        """The constant."""
        value = self.node.inputs[self.index]
        assert value is not None
        return value


def _at(axis: int) -> Axis:
    """Return a fixed axis, counted from the front or from the end."""
    return lambda _, rank: axis % rank


def _turned(name: str, plain: int, turned: int) -> Axis:
    """Return one axis or the other, as an attribute says whether the operator transposes the input."""
    return lambda node, rank: (turned if attribute(node, name, 0) else plain) % rank


RECURRENT = ("GRU", "LSTM", "RNN")
"""They multiply what comes in by one matrix for each direction, and their state by another."""

MULTIPLIED: dict[str, dict[int, Axis]] = {
    "Conv": {1: _at(0)},
    "ConvTranspose": {1: _at(1)},
    "Gemm": {0: _turned("transA", 0, 1), 1: _turned("transB", 1, 0)},
    "MatMul": {0: _at(-2), 1: _at(-1)},
    **{operator: {1: _at(1), 2: _at(1)} for operator in RECURRENT},
}
"""By operator of the standard domain: the inputs that it multiplies, and their channel axis."""


def multiplies(node: ir.Node, index: int) -> bool:
    """Tell whether a node multiplies what comes in at ``index`` by something else."""
    return is_standard(node, "Einsum") or (is_standard(node) and index in MULTIPLIED.get(node.op_type, {}))


def is_multiplied(value: ir.Value) -> bool:
    """Tell whether some node, of a body too, multiplies the value."""
    return any(multiplies(use.node, use.idx) for use in value.uses())


def weights_of(node: ir.Node) -> Iterator[Weight]:
    """Yield the float32 constants of two axes and more that a node multiplies."""
    for index, value in enumerate(node.inputs):
        rank = rank_of(value) or 0
        if rank > 1 and multiplies(node, index) and is_float(value) and constant_tensor(value) is not None:
            yield Weight(node, index, _channel_axis(node, index, rank))


def all_weights(graph: ir.Graph) -> Iterator[Weight]:
    """Yield the weights of a graph and of the bodies in it, in order."""
    for node in ir.traversal.RecursiveGraphIterator(graph):
        yield from weights_of(node)


def _channel_axis(node: ir.Node, index: int, rank: int) -> int:
    if node.op_type == "Einsum":
        return _axis_of_einsum(node, index)
    return MULTIPLIED[node.op_type][index](node, rank)


def _axis_of_einsum(node: ir.Node, index: int) -> int:
    """Return the longest axis of an input that the result has too; the first where it has none."""
    value = node.inputs[index]
    terms, _, result = str(attribute(node, "equation", "")).replace(" ", "").partition("->")
    letters = terms.split(",")[index]
    lengths = value.shape if value is not None and value.shape is not None else ()
    kept = [axis for axis, letter in enumerate(letters) if letter in result]
    return max(kept, key=lambda axis: _length(lengths[axis]), default=0)


def _length(size: object) -> int:
    return size if isinstance(size, int) else 0
