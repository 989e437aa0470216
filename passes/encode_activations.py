"""Decide encodings for activations from what calibration measured.

Three scopes. ``gemm-io``: the inputs of the layers whose weights are encoded, and the outputs of those that
reach their integer kernel only with a quantized output (Conv, behind its Relu if it has one); residual
sums (unless asked for), normalizations and softmax stay in float, which is what CPUs run. ``chains``: also
what lies between such layers and has an integer kernel, as in ``Conv``, ``Sigmoid``, ``Mul``, ``Concat``,
``Conv``, with the constants that are added and multiplied there; what lies elsewhere stays
as it is, as in transformers. ``all-tensors``: every float32 activation, as integer-only hardware needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from onnxq.analysis.chains import Link
from onnxq.analysis.layers import linear_layers
from onnxq.analysis.scopes import (
    Readers,
    activations,
    chain_links,
    computed_products,
    divides,
    gemm_io,
    residual_values,
)
from onnxq.errors import RecipeError
from onnxq.ir.module import GraphModule, array_of, is_standard, name_of
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.passmanager.memo import Memo, content_of
from onnxq.passmanager.precision import FLOAT
from onnxq.quant.encodings import covering, family_of, limit_of_bits
from onnxq.quant.facts import Facts, Need
from onnxq.quant.ranges import range_method
from onnxq.quant.statistics import Range

KNOWN_RANGES = {"Softmax": (0.0, 1.0)}
"""Ranges that follow from the operator. Where a value lies above the range of a Softmax's output, the integer
kernel of onnxruntime 1.31.1 gives 0 instead of the largest value: a measured range would not do."""


WIDE, WIDE_OPSET = ("int16", "uint16"), 21
"""Integers of 16 bits, and the operator set that brought them."""

LARGEST = 1e38
"""Larger magnitudes, infinity among them, are what masks are made of; their grid could hold nothing else."""


@dataclass(frozen=True)
class EncodeActivations(Pass):
    """Encode per tensor, with a zero that is exact.

    Options:
        scope: ``gemm-io`` for what integer kernels read and give, ``chains`` for what lies between them too,
            ``all-tensors`` for every activation.
        method: How the range is set: a name that ``onnxq.quant.ranges`` knows.
        logits: The method for float outputs of the model, where it is not ``method``.
        images: The method for what a convolution reads, where it is not ``method``.
        dtype: ``uint8``, ``int8``, ``uint16``, ``int16`` or ``float8e4m3fn``.
        symmetric: Put the zero point in the middle of a signed grid; float8 has no other.
        outputs: Operators whose integer kernel wants a quantized output too, but in scope ``all-tensors``.
        residuals: Quantize the sums of such outputs as well: faster, and less accurate.
        attention: Quantize what products of two computed values read too: queries with keys, and weights of
            attention with values.
        bits: Use as many levels as so many bits have. They are stored and multiplied in 8: what hardware
            with fewer would compute is simulated, and nothing is gained.

    """

    name: ClassVar[str] = "encode-activations"
    effect: ClassVar[Effect] = Effect.EXACT
    scope: Literal["gemm-io", "chains", "all-tensors"] = "gemm-io"
    method: str = "min-max"
    logits: str = ""
    images: str = ""
    dtype: Literal["uint8", "int8", "uint16", "int16", "float8e4m3fn"] = "uint8"
    symmetric: bool = False
    outputs: tuple[str, ...] = ("Conv", "ConvTranspose")
    residuals: bool = False
    attention: bool = False
    bits: Literal[2, 3, 4, 5, 6, 7, 8] | None = None

    @property
    def makes_integers(self) -> bool:
        """Wider integers and float8 have no kernel that multiplies them with int8 weights."""
        return self.dtype in ("uint8", "int8")

    @property
    def plainer(self) -> Pass | None:
        """Leave the operators between layers in float."""
        return replace(self, scope="gemm-io") if self.scope == "chains" else None

    @property
    def value_precisions(self) -> tuple[str, ...]:
        """All integers that its grids may have; float8 stays float8."""
        if not family_of(self.dtype).integers:
            return (self.dtype,)
        return ("int8", "int16") if self.symmetric else ("int8", "int16", "uint8", "uint16")

    @property
    def simulated(self) -> str | None:
        """Fewer bits than are stored."""
        return f"activations in {self.bits} bits" if self._limit(self.dtype) is not None else None

    def needs(self, module: GraphModule) -> Iterable[Need]:
        """Ask for what the range method needs, for every value in scope.

        Raises:
            RecipeError: A grid without negative numbers shall be symmetric, or one of more than 8 bits shall
                use fewer.

        """
        if self.bits is not None and not self.makes_integers:
            raise RecipeError(
                f"levels of {self.bits} bits are simulated in 8, and not in {self.dtype}",
                where=self.name,
                hint="give dtype=uint8 or dtype=int8",
            )
        if self.symmetric and family_of(self.dtype).limits_of(self.dtype)[0] == 0:
            raise RecipeError(
                f"{self.dtype} has no negative numbers, and cannot be symmetric around zero",
                where=self.name,
                hint=f"give dtype={self.dtype[1:]}",
            )
        for value, _ in self._sites(module):
            yield Need(name_of(value), range_method(self._method(value), self.dtype).stats)

    def foresees(self, module: GraphModule) -> Iterable[Need]:
        """Ask for what gradients tell of all that layers read, too: it is drawn in a stream of its own."""
        asked = list(self.needs(module))
        stats = range_method(self.method, self.dtype).stats
        read = dict.fromkeys(name_of(layer.activation) for layer in linear_layers(module))
        return asked + [need for name in read if (need := Need(name, stats)).of_gradients.stats]

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Encode a value once, for all of its readers in scope, where its range has an encoding."""
        for value, readers in self._sites(module):
            facts, known, method = module.measured(value), self._known_range(value), self._method(value)
            dtype = ctx.precision.of_value(value) or self.dtype
            reason, encoding = self._reason(value, facts), None
            if dtype != self.dtype:
                reason = _reason_against(dtype, module) or reason
            if reason is None:
                low, high = known or self._measured_range(facts, method, dtype, ctx.memo)
                encoding = covering(low, high, dtype, symmetric=self.symmetric, limit=self._limit(dtype))
            if encoding is None:
                for node in _around(value):
                    ctx.skip(node, f"{name_of(value)!r} stays in float: {reason}")
                continue
            why = "range of its operator" if known else f"{method} range of its calibrated values"
            ctx.edit.encode(value, encoding, readers=readers, why=why)
        self._encode_constants(module, ctx)

    def _reason(self, value: ir.Value, facts: Facts) -> str | None:
        """Return why ``value`` cannot be encoded, or None."""
        producer = value.producer()
        if (
            producer is not None
            and is_standard(producer, "AveragePool")
            and "dilations" in producer.attributes
        ):
            return "onnxruntime 1.31.1 cannot open a quantized AveragePool with dilations"
        if facts.count == 0:
            return "it never had an element"
        if self.scope == "all-tensors" and facts.low == facts.high == 0:
            return "it is zero wherever there is no padding, as masks are"
        if self.scope == "all-tensors" and divides(value):
            return "it divides or is under a logarithm, and what comes near 0 would become 0"
        if max(-facts.low, facts.high) > LARGEST:
            return f"it reaches from {facts.low:.3g} to {facts.high:.3g}, as masks do"
        return None

    def _method(self, value: ir.Value) -> str:
        if self.logits and value.is_graph_output():
            return self.logits
        read_by_conv = any(is_standard(reader, "Conv") for reader in value.consumers())
        return self.images if self.images and read_by_conv else self.method

    def _limit(self, dtype: str) -> int | None:
        """Return the largest integer of ``bits``; what a recipe assigns by name has all bits of its type."""
        return limit_of_bits(dtype, self.bits) if dtype == self.dtype else None

    def _known_range(self, value: ir.Value) -> tuple[float, float] | None:
        """Return the range of an operator, but where a product of attention reads it from a float kernel."""
        producer, in_float = value.producer(), self.attention and self.scope != "all-tensors"
        if in_float or producer is None or not is_standard(producer, *KNOWN_RANGES):
            return None
        return KNOWN_RANGES[producer.op_type]

    def _measured_range(self, facts: Facts, method: str, dtype: str, memo: Memo) -> tuple[float, float]:
        chosen = range_method(method, dtype)
        read = sorted(chosen.stats | {Range}, key=lambda kind: kind.name)
        known = [np.asarray(number) for kind in read for number in vars(facts.known(kind)).values()]
        limit = self._limit(dtype)
        key = "range", method, dtype, self.symmetric, limit, content_of(*known)
        return memo.of(key, lambda: chosen.choose(facts, dtype, self.symmetric, limit))

    def _sites(self, module: GraphModule) -> Iterator[tuple[ir.Value, list[ir.Node] | None]]:
        """Yield each value in scope with its readers; None stands for all readers."""
        if self.scope == "all-tensors":
            yield from ((value, None) for value in activations(module))
        else:
            readers, links = self._in_integers(module)
            between = (value for link in links for value in link.inputs + link.outputs)
            yield from (readers | dict.fromkeys(between)).items()

    def _in_integers(self, module: GraphModule) -> tuple[Readers, list[Link]]:
        """Return what layers and residual sums read and give, and what lies between these."""
        readers = gemm_io(module, self.outputs)
        for value, nodes in (computed_products(module) if self.attention else {}).items():
            if (wish := readers.setdefault(value, [])) is not None:
                wish += nodes
        readers |= dict.fromkeys(residual_values(module, readers) if self.residuals else ())
        return readers, chain_links(module, readers) if self.scope == "chains" else []

    def _encode_constants(self, module: GraphModule, ctx: PassContext) -> None:
        """Encode what is added and multiplied in chains whose other values were encoded."""
        for link in self._in_integers(module)[1]:
            if not all(map(module.is_encoded, link.inputs + link.outputs)):
                continue
            for value in link.constants:
                array = array_of(value)
                encoding = covering(
                    array.min(),
                    array.max(),
                    self.dtype,
                    symmetric=self.symmetric,
                    limit=self._limit(self.dtype),
                )
                ctx.edit.encode(value, encoding, readers=[link.node], why=f"{link.node.op_type} in integers")


def _reason_against(dtype: str, module: GraphModule) -> str | None:
    """Return why a value does not get the encoding that is assigned to it."""
    if dtype == FLOAT:
        return "the recipe assigns float to it"
    if dtype in WIDE and module.opset < WIDE_OPSET:
        return f"operator set {module.opset} has no {dtype}: convert-opset{{minimum={WIDE_OPSET}}} brings it"
    return None


def _around(value: ir.Value) -> list[ir.Node]:
    """Return the node that computes ``value``, or those that read it."""
    producer = value.producer()
    return list(value.consumers()) if producer is None else [producer]
