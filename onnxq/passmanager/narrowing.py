"""The choice of nodes that compute in a narrow float type, and why the others stay in float."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from onnxq.analysis.weights import weights_of
from onnxq.ir.module import (
    LINEAR,
    GraphModule,
    array_of,
    constant_of,
    is_float,
    is_standard,
    name_of,
    rank_of,
)
from onnxq.ir.schema import Signature, signature_of
from onnxq.passmanager.base import PassContext
from onnxq.passmanager.precision import FLOAT, is_named
from onnxq.quant.narrow import NarrowFloat, narrow_float
from onnxq.rewrite.casting import has_subgraph

DTYPES = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}

PRODUCTS = frozenset({*LINEAR, "Attention", "Einsum", "GRU", "LSTM", "MatMulNBits", "RNN"})

TABLES = frozenset({"Gather", "GatherBlockQuantized"})

ANY_TYPE = ("Cast", "Shape", "Size")
"""What reads a value of either type alike."""

SENSITIVE = {
    **dict.fromkeys(("Exp", "Pow", "ReduceProd", "ReduceSumSquare"), "its results outgrow their inputs"),
    **dict.fromkeys(("Cos", "Sin", "Tan"), "an angle's last digits are what it is about"),
    **dict.fromkeys(("Log", "Reciprocal"), "near zero it needs more digits"),
    **dict.fromkeys(
        ("CumSum", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSum"),
        "a sum of many values outgrows them",
    ),
}
"""Operators that stay in float whatever was measured, and why."""


@dataclass
class Choice:
    """Which values become narrow, and which nodes compute them.

    Args:
        dtype: The narrow type: a key of ``DTYPES``.
        lower_io: Whether float inputs and outputs of the model become narrow, too.
        ranges: Whether what came near the type's limits on calibration data stays in float.
        exclude: Operators, or names of nodes, in which * stands for anything, that stay in float.
        module: The graph.
        ctx: Takes the remarks.
        narrow: The values that become narrow.
        nodes: The nodes that compute them.

    """

    dtype: str
    lower_io: bool
    ranges: bool
    exclude: tuple[str, ...]
    module: GraphModule
    ctx: PassContext
    narrow: set[ir.Value] = field(default_factory=set)
    nodes: set[ir.Node] = field(default_factory=set)
    counted: set[ir.Value] = field(default_factory=set)
    """Float values that integers alone decide: positions and masks."""

    def __post_init__(self) -> None:
        """Look up the type."""
        self.type: NarrowFloat = narrow_float(self.dtype)

    def choose(self) -> None:
        """Walk in graph order, so that each node knows what it reads."""
        if self.lower_io:
            self.narrow.update(value for value in self.module.graph.inputs if is_float(value))
        for node in self.module.graph:
            self._note_counted(node)
            if not any(is_float(value) for value in node.outputs) or not self._is_reached(node):
                continue
            reason = self._reason(node)
            if reason is not None:
                self.ctx.skip(node, reason)
                continue
            self.nodes.add(node)
            self.narrow.update(value for value in node.outputs if is_float(value))

    def reads_narrow(self, node: ir.Node, index: int) -> bool:
        """Tell whether a narrow node reads the narrow form of its input at ``index``."""
        signature = self._signature(node) if node in self.nodes else None
        return signature is not None and self._wanted in signature.inputs[index].allowed

    @property
    def _wanted(self) -> str:
        return f"tensor({self.dtype})"

    def _signature(self, node: ir.Node) -> Signature | None:
        return signature_of(node, self.module.opset)

    def _note_counted(self, node: ir.Node) -> None:
        read = [value for value in node.inputs if value is not None and constant_of(value) is None]
        whole = all(value in self.counted or _is_whole(value) for value in read)
        if whole and not (_reads_table(node) or _sums_by_weights(node)):
            self.counted.update(value for value in node.outputs if is_float(value))

    def _is_reached(self, node: ir.Node) -> bool:
        """Tell whether the node makes narrow values, or reads some."""
        if _reads_table(node):
            return True
        if node.op_type in PRODUCTS:
            return not any(value in self.counted for value in node.outputs)
        return not is_standard(node, *ANY_TYPE) and any(value in self.narrow for value in node.inputs)

    def _reason(self, node: ir.Node) -> str | None:
        """Return why the node stays in float, or None."""
        if is_named(node, self.exclude):
            return "excluded by its name or operator"
        if self.ctx.precision.of_layer(node) == FLOAT:
            return "the recipe assigns float to it"
        if is_standard(node, *SENSITIVE):
            return SENSITIVE[node.op_type]
        return self._type_reason(node) or self._number_reason(node) or self._kernel_reason(node)

    def _type_reason(self, node: ir.Node) -> str | None:
        signature = self._signature(node)
        if has_subgraph(node):
            return "its subgraph computes in float"
        if signature is None:
            return "nobody knows which types the operator takes"
        if any(value is not None and value.dtype is None for value in (*node.inputs, *_used(node))):
            return "nobody knows the type of a value that it reads or computes"
        first, used = signature.outputs[0].parameter, _used(node)
        formals = [
            formal
            for value, formal in zip(node.outputs, signature.outputs, strict=True)
            if value in used and is_float(value)
        ]
        if any(self._wanted not in one.allowed or one.parameter != first for one in formals):
            return f"the operator computes no {self.dtype}"
        if any(attr.name in ("dtype", "to", "output_dtype") for attr in node.attributes.values()):
            return "an attribute names its type"
        return None

    def _number_reason(self, node: ir.Node) -> str | None:
        inputs = [value for index, value in enumerate(node.inputs) if not self.is_mask(node, index)]
        constants = [value for value in inputs if is_float(value) and constant_of(value) is not None]
        lost = next((value for value in constants if not self.type.holds_array(array_of(value))), None)
        if lost is not None:
            return f"{self.dtype} cannot hold its constant {name_of(lost)!r}"
        if not self.ranges:
            return None
        return next(filter(None, map(self._range_reason, (*inputs, *node.outputs))), None)

    def _range_reason(self, value: ir.Value | None) -> str | None:
        facts = self.module.facts_of(value)
        if facts is None or not facts.count or _is_masked(value) or self.type.holds(facts.low, facts.high):
            return None
        reach = f"{name_of(value)!r} reaches from {facts.low:.3g} to {facts.high:.3g}"
        return f"{reach}, near the limits of {self.dtype}"

    def _kernel_reason(self, node: ir.Node) -> str | None:
        kernels, narrow = self.ctx.target.kernels, DTYPES[self.dtype]

        def dtype_of(value: ir.Value) -> ir.DataType | None:
            return narrow if is_float(value) else value.dtype

        lacking = None if kernels is None else kernels.lacks(node, self.module.opset, dtype_of)
        return None if lacking is None else f"target {self.ctx.target.name} has {lacking}"

    def is_mask(self, node: ir.Node, index: int) -> bool:
        """Tell whether the node's input at ``index`` is put on narrow scores that a Softmax reads."""
        value = node.inputs[index]
        if not is_float(value) or value in self.narrow:
            return False
        return index == 3 if is_standard(node, "Attention") else _is_masked(node.outputs[0])


def _used(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.outputs if value.uses() or value.is_graph_output()]


def _is_whole(value: ir.Value) -> bool:
    """Tell whether the value is known to hold integers or truth values."""
    return value.dtype is not None and not value.dtype.is_floating_point()


def _sums_by_weights(node: ir.Node) -> bool:
    """Tell whether the node adds up products with constants: bytes of images or texts become features then.

    A product of positions and frequencies has one term for each number, and stays what it was.
    """
    arrays = [(array_of(weight.value), weight.axis) for weight in weights_of(node)]
    return any(array.size > array.shape[axis] for array, axis in arrays)


def _reads_table(node: ir.Node) -> bool:
    """Tell whether the node looks rows up in a table of floats, or of integers in blocks."""
    table = node.inputs[0] if node.op_type in TABLES else None
    return constant_of(table) is not None and (rank_of(table) or 0) > 1


def _is_masked(value: ir.Value | None) -> bool:
    """Tell whether ``value`` is what Softmax, and nobody else, reads after a mask was put on it."""
    producer = None if value is None else value.producer()
    if value is None or producer is None or not is_standard(producer, "Add", "Where"):
        return False
    readers = value.consumers()
    softmax = bool(readers) and all(is_standard(reader, "Softmax") for reader in readers)
    return softmax and not value.is_graph_output()
