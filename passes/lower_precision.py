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
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from onnxq.errors import PreconditionError
from onnxq.ir.module import (
    GraphModule,
    array_of,
    constant_of,
    is_float,
    is_standard,
    name_of,
)
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.passmanager.narrowing import ANY_TYPE, DTYPES, Choice
from onnxq.quant.facts import Need
from onnxq.quant.statistics import Range
from onnxq.rewrite.casting import cast, drop_empty_cast

FLOAT = ir.DataType.FLOAT
SUFFIXES = {"float16": "f16", "bfloat16": "bf16"}


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

    @property
    def variants(self) -> tuple[str, ...]:
        """The other type of 16 bits."""
        return ("dtype=bfloat16",) if self.dtype == "float16" else ("dtype=float16",)

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
        choice = Choice(self.dtype, self.io == "lower", self.ranges, self.exclude, module, ctx)
        choice.choose()
        if choice.narrow:
            _Lowering(choice, ctx).lower()


def _computed(module: GraphModule) -> Iterator[ir.Value]:
    """Yield the float32 values that are no constants."""
    for value in module.values():
        if is_float(value) and constant_of(value) is None and value.name:
            yield value


@dataclass
class _Lowering:
    """Carries a choice out."""

    choice: Choice
    ctx: PassContext

    def __post_init__(self) -> None:
        """Say once what every edit is for."""
        name = self.choice.dtype
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
            drop_empty_cast(node, self.dtype, self.ctx.edit, why=self.why)

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
        lowered = self.choice.lower_io
        if value.is_graph_output() and value.producer() is not None and is_narrow != lowered:
            other = self._narrow(value, masking=False) if lowered else self._wide(value)
            why = self.why if lowered else "outputs keep their type"
            self.ctx.edit.reroute(value, other, readers=[None], why=why)

    def _wide(self, value: ir.Value) -> ir.Value:
        return cast(value, FLOAT, "f32", self.ctx.edit, why="its readers compute in float")

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
        return cast(value, self.dtype, self.suffix, self.ctx.edit, why=self.why)

    def _clip(self, value: ir.Value) -> ir.Value:
        op, name = self.ctx.edit.behind(value, why="a mask stays finite"), name_of(value)
        low, high = (
            op.constant(f"{name}_{part}", np.array(limit, np.float32))
            for part, limit in (("low", -self.choice.type.filler), ("high", self.choice.type.filler))
        )
        return op.Clip(value, low, high, name=f"{name}_clipped")
