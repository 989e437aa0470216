"""Decide encodings for activations from what calibration measured.

Two scopes. ``gemm-io``: the inputs of the layers whose weights are encoded, and the outputs of those that
reach their integer kernel only with a quantized output (Conv, behind its Relu if it has one); residual
sums (unless asked for), normalizations and softmax stay in float, which is what CPUs run. ``all-tensors``:
every float32 activation, as integer-only hardware needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from onnxq.errors import RecipeError
from onnxq.ir.layers import LINEAR, SELECTING, Layer, clamped, keeps_grid, layer_of, linear_layers
from onnxq.ir.module import GraphModule, is_float, is_standard, name_of
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.passmanager.memo import Memo, Same
from onnxq.quant.encodings import Encoding, covering, family_of
from onnxq.quant.facts import Facts, Need
from onnxq.quant.ranges import range_method

MASKING = ("Add", "Where")
"""What puts an attention mask on the scores; on a grid, masked scores would come back within reach."""

PARAMETERS = {
    "Dropout": (1,),
    "DequantizeLinear": (1,),
    "QuantizeLinear": (1,),
    "Resize": (1, 2),
    "Upsample": (1,),
}
"""Inputs that are no activations but say what the operator does: ratios, scales, regions."""

KNOWN_RANGES = {"Softmax": (0.0, 1.0)}
"""Ranges that follow from the operator. Where a value lies above the range of a Softmax's output, the integer
kernel of onnxruntime 1.31.1 gives 0 instead of the largest value: a measured range would not do."""

ZERO_FROM_ZERO = SELECTING | {"Abs", "Dropout", "Expand", "Identity", "Neg", "Sqrt", "Tile"}
"""What computes 0 from 0."""

Readers = dict[ir.Value, list[ir.Node] | None]
"""Values in scope with those that read them quantized; None stands for all readers."""

LARGEST = 1e38
"""Larger magnitudes, infinity among them, are what masks are made of; their grid could hold nothing else."""


@dataclass(frozen=True)
class EncodeActivations(Pass):
    """Encode per tensor, with a zero that is exact.

    Options:
        scope: ``gemm-io`` for what integer kernels read and give, ``all-tensors`` for every activation.
        method: How the range is set: a name that ``onnxq.quant.ranges`` knows.
        logits: The method for float outputs of the model, where it is not ``method``.
        images: The method for what a convolution reads, where it is not ``method``.
        dtype: ``uint8``, ``int8``, ``uint16``, ``int16`` or ``float8e4m3fn``.
        symmetric: Put the zero point in the middle of a signed grid; float8 has no other.
        outputs: Operators whose integer kernel wants a quantized output too, in scope ``gemm-io``.
        residuals: Quantize the sums of such outputs as well: faster, and less accurate.

    """

    name: ClassVar[str] = "encode-activations"
    effect: ClassVar[Effect] = Effect.EXACT
    scope: Literal["gemm-io", "all-tensors"] = "gemm-io"
    method: str = "min-max"
    logits: str = ""
    images: str = ""
    dtype: Literal["uint8", "int8", "uint16", "int16", "float8e4m3fn"] = "uint8"
    symmetric: bool = False
    outputs: tuple[str, ...] = ("Conv", "ConvTranspose")
    residuals: bool = False

    @property
    def makes_integers(self) -> bool:
        """Wider integers and float8 have no kernel that multiplies them with int8 weights."""
        return self.dtype in ("uint8", "int8")

    def needs(self, module: GraphModule) -> Iterable[Need]:
        """Ask for what the range method needs, for every value in scope.

        Raises:
            RecipeError: A grid without negative numbers shall be symmetric.

        """
        if self.symmetric and family_of(self.dtype).limits_of(self.dtype)[0] == 0:
            raise RecipeError(
                f"{self.dtype} has no negative numbers, and cannot be symmetric around zero",
                where=self.name,
                hint=f"give dtype={self.dtype[1:]}",
            )
        for value, _ in self._sites(module):
            yield Need(name_of(value), range_method(self._method(value), self.dtype).stats)

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Encode a value once, for all of its readers in scope, where its range has an encoding."""
        for value, readers in self._sites(module):
            facts, known, method = module.measured(value), _known_range(value), self._method(value)
            reason, encoding = self._reason(value, facts), None
            if reason is None:
                low, high = known or self._measured_range(facts, method, ctx.memo)
                encoding = covering(low, high, self.dtype, symmetric=self.symmetric)
                reason = _pole(value, facts, encoding) if readers is None else None
            if encoding is None or reason is not None:
                for node in _around(value):
                    ctx.skip(node, f"{name_of(value)!r} stays in float: {reason}")
                continue
            why = "range of its operator" if known else f"{method} range of its calibrated values"
            ctx.edit.encode(value, encoding, readers=readers, why=why)

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
        if max(-facts.low, facts.high) > LARGEST:
            return f"it reaches from {facts.low:.3g} to {facts.high:.3g}, as masks do"
        return None

    def _method(self, value: ir.Value) -> str:
        if self.logits and value.is_graph_output():
            return self.logits
        read_by_conv = any(is_standard(reader, "Conv") for reader in value.consumers())
        return self.images if self.images and read_by_conv else self.method

    def _measured_range(self, facts: Facts, method: str, memo: Memo) -> tuple[float, float]:
        key = "range", method, self.dtype, self.symmetric, Same(*facts.along(None))
        chosen = range_method(method, self.dtype)
        return memo.of(key, lambda: chosen.choose(facts, self.dtype, self.symmetric))

    def _sites(self, module: GraphModule) -> Iterator[tuple[ir.Value, list[ir.Node] | None]]:
        """Yield each value in scope with its readers; None stands for all readers."""
        if self.scope == "all-tensors":
            yield from ((value, None) for value in _activations(module))
        else:
            readers = _gemm_io(module, self.outputs)
            sums = _residual_values(module, readers) if self.residuals else ()
            yield from (readers | dict.fromkeys(sums)).items()


def _gemm_io(module: GraphModule, outputs: tuple[str, ...]) -> Readers:
    """Join the wishes of all encoded layers, value by value."""
    readers: Readers = {}
    for layer in linear_layers(module):
        if not module.reads_encoded(layer.node, layer.weight):
            continue
        wish = readers.setdefault(layer.activation, [])
        if wish is not None:
            wish.append(layer.node)
        if layer.node.op_type in outputs:
            readers[layer.clamped_output] = None
    return readers


def _residual_values(module: GraphModule, readers: Readers) -> Iterator[ir.Value]:
    """Yield what has to be encoded for the residual sums to run in integers.

    Such a sum adds the quantized output of a layer and another value that is quantized anyway, or that is
    moved from one that is. In float, it would cost two DequantizeLinear and a QuantizeLinear more.
    """
    encoded, outputs = set(readers), {value for value, nodes in readers.items() if nodes is None}
    for node in module.graph:
        if not is_standard(node, "Add"):
            continue
        total = clamped(node.outputs[0])
        paths = [_path_from(value, encoded) for value in node.inputs]
        if total.is_graph_output() or not all(paths) or outputs.isdisjoint(node.inputs):
            continue
        encoded.add(total)
        outputs.add(total)
        yield from (total, *paths[0], *paths[1])


def _path_from(value: ir.Value | None, encoded: set[ir.Value]) -> list[ir.Value]:
    """Return ``value`` and what it was moved from, back to an encoded value; empty if there is none."""
    path: list[ir.Value] = []
    while value is not None:
        path.append(value)
        if value in encoded:
            return path
        producer = value.producer()
        value = producer.inputs[0] if producer is not None and keeps_grid(producer) else None
    return []


def _activations(module: GraphModule) -> Iterator[ir.Value]:
    """Yield every float32 value that is fed in or computed, and that somebody reads."""
    computed = (value for node in module.graph for value in node.outputs)
    for value in (*module.graph.inputs, *computed):
        read = value.uses() or value.is_graph_output()
        if (
            is_float(value)
            and read
            and not (_is_masked_score(value) or _is_fused(value) or _is_parameter(value))
        ):
            yield value


def _known_range(value: ir.Value) -> tuple[float, float] | None:
    producer = value.producer()
    if producer is None or not is_standard(producer, *KNOWN_RANGES):
        return None
    return KNOWN_RANGES[producer.op_type]


def _pole(value: ir.Value, facts: Facts, encoding: Encoding) -> str | None:
    """Return why ``encoding`` makes infinity of ``value``: it divides, and some of it would become 0."""
    smallest = np.array(max(facts.low, -facts.high, 0.0), np.float32)
    if encoding.dequantize(encoding.quantize(smallest)) != 0 or not _divides(value):
        return None
    return "it divides or is under a logarithm, and its smallest magnitudes would become 0"


def _divides(value: ir.Value) -> bool:
    """Tell whether a zero in ``value`` would become an infinity."""
    for use in value.uses():
        if is_standard(use.node, "Log", "Reciprocal") or (is_standard(use.node, "Div") and use.idx == 1):
            return True
        if is_standard(use.node, *ZERO_FROM_ZERO) and use.idx == 0 and _divides(use.node.outputs[0]):
            return True
    return False


def _around(value: ir.Value) -> list[ir.Node]:
    """Return the node that computes ``value``, or those that read it."""
    producer = value.producer()
    return list(value.consumers()) if producer is None else [producer]


def _is_parameter(value: ir.Value) -> bool:
    """Tell whether an operator is steered by ``value``."""
    return any(
        is_standard(use.node, *PARAMETERS) and use.idx in PARAMETERS[use.node.op_type] for use in value.uses()
    )


def _is_masked_score(value: ir.Value) -> bool:
    """Tell whether ``value`` is what Softmax reads after a mask was added.

    A mask is a huge negative number; on a grid that fits the scores it would saturate, and let masked
    positions in.
    """
    producer = value.producer()
    feeds_softmax = any(is_standard(reader, "Softmax") for reader in value.consumers())
    return feeds_softmax and producer is not None and is_standard(producer, *MASKING)


def _is_fused(value: ir.Value) -> bool:
    """Tell whether a Relu or Clip that follows will be quantized in the place of ``value``."""
    producer = value.producer()
    layer = layer_of(producer) if producer is not None and is_standard(producer, *LINEAR) else None
    return isinstance(layer, Layer) and layer.clamped_output is not value
