"""Let a float32 model compute in float16 or bfloat16, but for what would lose by it.

Before: ``y = Softmax(MatMul(x, w))``. After: ``y = Cast<float>(Softmax(MatMul(Cast<float16>(x), w_f16)))``.

Narrow values come from products and look-ups in tables, and flow on from there. What comes before any of them
stays in float: positions, masks and the scaling of images are small, and a position above 2048 is no float16
number. Behind an operator that stays in float, so does all that reads nothing else: a norm written out begins
with a square and ends where its root meets the values again. On CUDA LayerNormalization, Softmax and products
take float16 and add up in float32, so they are narrow (the kernels' type ``U``, onnxruntime 1.31.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from onnxq.errors import PreconditionError
from onnxq.ir.layers import LINEAR
from onnxq.ir.module import GraphModule, array_of, constant_of, is_float, is_standard, name_of, rank_of
from onnxq.ir.schema import Signature, signature_of
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.passmanager.casting import cast, drop_empty_cast, has_subgraph
from onnxq.quant.facts import Need
from onnxq.quant.narrow import NarrowFloat, narrow_float
from onnxq.quant.statistics import Range

FLOAT = ir.DataType.FLOAT
DTYPES = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
SUFFIXES = {"float16": "f16", "bfloat16": "bf16"}
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


@dataclass(frozen=True)
class LowerPrecision(Pass):
    """Lower values, constants and casts of the main graph, and cast where both kinds meet.

    Options:
        dtype: The narrow type: ``float16`` has 11 bits of precision, ``bfloat16`` 8 and float32's range.
        io: Whether float inputs and outputs of the model ``keep`` their type, or are to ``lower`` it too.
        ranges: Keep in float, too, what came near the narrow type's limits on calibration data.
        exclude: Nodes to leave in float: operators, or names of nodes, in which * stands for anything.

    Source:
        Micikevicius et al., 2017, arXiv:1710.03740, section 3.3: products take half precision and add up in
        float32; reductions over vectors and large sums stay in float32.

    """

    name: ClassVar[str] = "lower-precision"
    effect: ClassVar[Effect] = Effect.ROUNDING
    dtype: Literal["float16", "bfloat16"] = "float16"
    io: Literal["keep", "lower"] = "keep"
    ranges: bool = False
    exclude: tuple[str, ...] = ()

    def needs(self, module: GraphModule) -> Iterable[Need]:
        """Ask for the range of every value that is computed or fed, if ranges are wanted."""
        if self.ranges:
            for value in _computed(module):
                yield Need(name_of(value), frozenset({Range}))

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Choose node by node, in the graph's order; then lower and cast."""
        if module.decisions():
            raise PreconditionError(
                "there are decisions that no pass has realised yet",
                hint="put insert-qdq before lower-precision",
            )
        choice = _Choice(self, module, ctx)
        choice.choose()
        if choice.narrow:
            _Lowering(choice, ctx).lower()


def _computed(module: GraphModule) -> Iterator[ir.Value]:
    """Yield the float32 values that are no constants."""
    for value in module.values():
        if is_float(value) and constant_of(value) is None and value.name:
            yield value


@dataclass
class _Choice:
    """Which values become narrow, and which nodes compute them."""

    options: LowerPrecision
    module: GraphModule
    ctx: PassContext
    narrow: set[ir.Value] = field(default_factory=set)
    nodes: set[ir.Node] = field(default_factory=set)
    counted: set[ir.Value] = field(default_factory=set)
    """Float values that integers alone decide: positions and masks."""

    def __post_init__(self) -> None:
        """Look up the type."""
        self.type: NarrowFloat = narrow_float(self.options.dtype)

    def choose(self) -> None:
        """Walk in graph order, so that each node knows what it reads."""
        if self.options.io == "lower":
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
        return f"tensor({self.options.dtype})"

    def _signature(self, node: ir.Node) -> Signature | None:
        return signature_of(node, self.module.opset)

    def _note_counted(self, node: ir.Node) -> None:
        read = [value for value in node.inputs if value is not None and constant_of(value) is None]
        if not _reads_table(node) and all(value in self.counted or _is_whole(value) for value in read):
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
        if any(fnmatchcase(node.name or "", one) or node.op_type == one for one in self.options.exclude):
            return "excluded by its name or operator"
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
            return f"the operator computes no {self.options.dtype}"
        if any(attr.name in ("dtype", "to", "output_dtype") for attr in node.attributes.values()):
            return "an attribute names its type"
        return None

    def _number_reason(self, node: ir.Node) -> str | None:
        inputs = [value for index, value in enumerate(node.inputs) if not self.is_mask(node, index)]
        constants = [value for value in inputs if is_float(value) and constant_of(value) is not None]
        lost = next((value for value in constants if not self.type.holds_array(array_of(value))), None)
        if lost is not None:
            return f"{self.options.dtype} cannot hold its constant {name_of(lost)!r}"
        if not self.options.ranges:
            return None
        return next(filter(None, map(self._range_reason, (*inputs, *node.outputs))), None)

    def _range_reason(self, value: ir.Value | None) -> str | None:
        facts = self.module.facts_of(value)
        if facts is None or not facts.count or _is_masked(value) or self.type.holds(facts.low, facts.high):
            return None
        reach = f"{name_of(value)!r} reaches from {facts.low:.3g} to {facts.high:.3g}"
        return f"{reach}, near the limits of {self.options.dtype}"

    def _kernel_reason(self, node: ir.Node) -> str | None:
        kernels, narrow = self.ctx.target.kernels, DTYPES[self.options.dtype]

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


@dataclass
class _Lowering:
    """Carries a choice out."""

    choice: _Choice
    ctx: PassContext

    def __post_init__(self) -> None:
        """Say once what every edit is for."""
        name = self.choice.options.dtype
        self.dtype, self.suffix, self.why = DTYPES[name], SUFFIXES[name], f"computes in {name}"

    def lower(self) -> None:
        """Retype the values first, then put casts where readers want the other type."""
        module = self.choice.module
        values, nodes = [value for value in module.values() if is_float(value)], list(module.graph)
        for value in values:
            if value in self.choice.narrow:
                self.ctx.edit.set_dtype(value, self.dtype, why=self.why)
        for value in values:
            self._serve(value)
        for node in nodes:
            drop_empty_cast(node, self.dtype, self.ctx, why=self.why)

    def _serve(self, value: ir.Value) -> None:
        """Give each reader of ``value`` the type that it wants."""
        is_narrow = value in self.choice.narrow
        uses = [use for use in value.uses() if not is_standard(use.node, *ANY_TYPE)]
        others = [use for use in uses if self.choice.reads_narrow(use.node, use.idx) != is_narrow]
        for masking in (False, True):
            readers = [use for use in others if self.choice.is_mask(use.node, use.idx) == masking]
            if readers:
                other = self._wide(value) if is_narrow else self._narrow(value, masking=masking)
                for use in readers:
                    self.ctx.edit.rewire(use.node, use.idx, other, why=self.why)
        self._serve_output(value, is_narrow=is_narrow)

    def _serve_output(self, value: ir.Value, *, is_narrow: bool) -> None:
        lowered = self.choice.options.io == "lower"
        if value.is_graph_output() and value.producer() is not None and is_narrow != lowered:
            other = self._narrow(value, masking=False) if lowered else self._wide(value)
            why = self.why if lowered else "outputs keep their type"
            self.ctx.edit.reroute(value, other, readers=[None], why=why)

    def _wide(self, value: ir.Value) -> ir.Value:
        return cast(value, FLOAT, "f32", self.ctx, why="its readers compute in float")

    def _narrow(self, value: ir.Value, *, masking: bool) -> ir.Value:
        """Return the narrow form of a float value; a mask is kept from becoming infinite."""
        if constant_of(value) is not None:
            array = array_of(value)
            array = self.choice.type.clipped(array) if masking else array
            return self.ctx.edit.constant(
                f"{name_of(value)}_{self.suffix}", self.choice.type.rounded(array), why=self.why
            )
        if masking:
            value = self._clip(value)
        source = value.producer()
        before = source.inputs[0] if source is not None and is_standard(source, "Cast") else None
        if before is not None and before.dtype == self.dtype:
            return before
        return cast(value, self.dtype, self.suffix, self.ctx, why=self.why)

    def _clip(self, value: ir.Value) -> ir.Value:
        op, name = self.ctx.edit.behind(value, why="a mask stays finite"), name_of(value)
        low, high = (
            op.constant(f"{name}_{part}", np.array(limit, np.float32))
            for part, limit in (("low", -self.choice.type.filler), ("high", self.choice.type.filler))
        )
        return op.Clip(value, low, high, name=f"{name}_clipped")


def _used(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.outputs if value.uses() or value.is_graph_output()]


def _is_whole(value: ir.Value) -> bool:
    """Tell whether the value is known to hold integers or truth values."""
    return value.dtype is not None and not value.dtype.is_floating_point()


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
