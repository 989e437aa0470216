"""Decide encodings for the constant weights of linear layers, symmetric around zero."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.analysis.layers import Layer, layer_of
from onnxq.analysis.products import TOO_MANY
from onnxq.ir.module import LINEAR, GraphModule, array_of, is_standard
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.quant.encodings import Encoding, family_of, limit_of_bits, symmetric_encoding
from onnxq.quant.pairs import as_matrix, orders_of, pair_exact
from onnxq.quant.ranges import range_method


@dataclass(frozen=True)
class EncodeWeights(Pass):
    """Encode each weight of a layer that the target runs on quantized values.

    Options:
        granularity: One scale per output ``channel`` or one per ``tensor``.
        exclude: Layers to leave in float: operators, or names of nodes, in which * stands for anything.
        bits: 7 keeps the sum of two products within 16 bits, whatever the weights are, 8 is for kernels that
            do not saturate there; none is what the target takes. Where it saturates, a channel's grid is as
            fine as its own neighbours allow. 2 to 6 are stored in 8 and gain nothing: they simulate what has
            such integers.
        dtype: ``int8``, or ``float8e4m3fn``, which has no bits to spare and whose range is ``min-max``.
        method: How ranges are set: ``min-max``, or ``mse``, which clips where that errs less.

    Source:
        Nagel et al., 2021, arXiv:2106.08295, sections 2.3 and 2.4: symmetric weights keep the zero point
        out of the inner product, and per-channel scales cost nothing at run time.

    """

    name: ClassVar[str] = "encode-weights"
    effect: ClassVar[Effect] = Effect.EXACT
    encodes_weights: ClassVar[bool] = True
    granularity: Literal["channel", "tensor"] = "channel"
    exclude: tuple[str, ...] = ()
    bits: Literal[2, 3, 4, 5, 6, 7, 8] | None = None
    dtype: Literal["int8", "float8e4m3fn"] = "int8"
    method: Literal["min-max", "mse"] = "min-max"

    @property
    def layer_precisions(self) -> tuple[str, ...]:
        """What the weights are stored as."""
        return (self.dtype,)

    @property
    def simulated(self) -> str | None:
        """Fewer bits than exactness on any processor takes."""
        return f"weights in {self.bits} bits" if self.bits is not None and self.bits < 7 else None

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave a node alone where its weight is no constant or the target has no kernel for it."""
        for node in module.graph:
            if not is_standard(node, *LINEAR):
                continue
            layer = self._layer(node, ctx)
            if isinstance(layer, str):
                ctx.skip(node, layer)
                continue
            encoding = self._encoding(layer, ctx)
            if ctx.overflows(layer, array_of(layer.weight), encoding):
                ctx.skip(node, TOO_MANY)
                continue
            why = f"weight of {node.op_type}{self._given_up(layer, encoding, ctx)}"
            ctx.edit.encode(layer.weight, encoding, readers=[node], why=why)

    def _layer(self, node: ir.Node, ctx: PassContext) -> Layer | str:
        """Return the layer to encode, or the reason why the node is left alone."""
        reason = ctx.reason_to_leave(node, self.exclude, self.layer_precisions)
        if reason is not None:
            return reason
        if node.op_type not in ctx.target.integer_operators:
            return f"target {ctx.target.name} has no integer kernel for it"
        return layer_of(node)

    def _encoding(self, layer: Layer, ctx: PassContext) -> Encoding:
        weight = array_of(layer.weight)
        whole = self.granularity == "tensor" or (weight.ndim > 2 and layer.node.op_type == "MatMul")
        rows = weight.reshape(1, -1) if whole else _by_channel(weight, layer.channel_axis)
        limit = self._limit(layer, ctx)
        if limit is not None and self.bits is None and not whole:
            return self._pair_exact(layer, weight, self._largest(rows, None))
        largest = self._largest(rows, limit)
        if whole:
            return symmetric_encoding(largest[0], self.dtype, limit=limit)
        return symmetric_encoding(largest, self.dtype, axis=layer.channel_axis, limit=limit)

    def _given_up(self, layer: Layer, encoding: Encoding, ctx: PassContext) -> str:
        """Say how much larger the steps are than those of all 8 bits, where the processor asks for it."""
        if self._limit(layer, ctx) is None or encoding.axis is None:
            return ""
        largest = self._largest(_by_channel(array_of(layer.weight), layer.channel_axis), None)
        full = symmetric_encoding(largest, self.dtype, axis=0).scale
        times = float(np.mean(encoding.scale / full))
        return f": steps {times:.2f} times those of 8 bits, so that no products saturate"

    def _limit(self, layer: Layer, ctx: PassContext) -> int | None:
        if not family_of(self.dtype).integers or self.bits == 8:
            return None
        return ctx.weight_limit(layer) if self.bits is None else limit_of_bits(self.dtype, self.bits)

    def _largest(self, rows: NDArray[Any], limit: int | None) -> NDArray[np.float64]:
        low, high = range_method(self.method, self.dtype).choose_rows(rows, self.dtype, True, limit)
        return np.maximum(-low, high)

    def _pair_exact(self, layer: Layer, weight: NDArray[Any], largest: NDArray[np.float64]) -> Encoding:
        """Return the finest grid of each channel on which no two of its neighbours saturate."""
        axis = layer.channel_axis
        window = weight.shape[:axis] + weight.shape[axis + 1 :]
        found = pair_exact(as_matrix(weight, axis), largest, orders_of(window))
        return replace(found, axis=axis)


def _by_channel(weight: NDArray[Any], axis: int) -> NDArray[Any]:
    """Return one row for each output channel."""
    return np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
