"""Decide encodings for the constant weights of linear layers, symmetric around zero."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.analysis.layers import SMALL, Layer, layer_of, linear_layers, makes_tokens, smallest_layers
from onnxq.analysis.products import TOO_MANY
from onnxq.ir.module import LINEAR, GraphModule, array_of, is_standard, name_of
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.quant.encodings import Encoding, family_of, limit_of_bits, symmetric_encoding
from onnxq.quant.facts import Need
from onnxq.quant.pairs import as_matrix, orders_of, pair_exact
from onnxq.quant.ranges import hessian_range, range_method
from onnxq.quant.statistics import CurvedGram
from onnxq.quant.statistics.gram import MOST_CHANNELS


@dataclass(frozen=True)
class EncodeWeights(Pass):
    """Encode each weight of a layer that the target runs on quantized values, unless a pass has done so.

    Options:
        granularity: One scale per output ``channel`` or one per ``tensor``.
        exclude: Layers to leave in float: operators, or names of nodes, in which * stands for anything.
        bits: 7 keeps the sum of two products within 16 bits, whatever the weights are, 8 is for kernels that
            do not saturate there; none is what the target takes. Where it saturates, a channel's grid is as
            fine as its own neighbours allow. 2 to 6 are stored in 8 and gain nothing: they simulate what has
            such integers.
        spared: The smallest weights stay in float, as long as they are together no more than this part of
            all weights of layers: most of the error for their size is theirs, and hardly any of the bytes.
        patches: Encode the convolution that cuts an image into tokens too. It is a hundredth of a vision
            transformer's work, and 8 bits of what it gives are all that its residual stream begins with.
        dtype: ``int8``, or ``float8e4m3fn``, which has no bits to spare and whose range is ``min-max``.
        method: How ranges are set: ``min-max``; ``mse``, which clips where that errs less; or ``hessian``,
            which clips where the loss rises less, on data: for MatMul and Gemm, and as ``mse`` elsewhere.

    Sources:
        Nagel et al., 2021, arXiv:2106.08295, sections 2.3 and 2.4: symmetric weights keep the zero point
        out of the inner product, and per-channel scales cost nothing at run time. Yuan et al., 2022,
        arXiv:2111.12293 (PTQ4ViT): the rise of the loss.

    """

    name: ClassVar[str] = "encode-weights"
    effect: ClassVar[Effect] = Effect.EXACT
    encodes_weights: ClassVar[bool] = True
    granularity: Literal["channel", "tensor"] = "channel"
    exclude: tuple[str, ...] = ()
    bits: Literal[2, 3, 4, 5, 6, 7, 8] | None = None
    spared: float = 0.0
    patches: bool = True
    dtype: Literal["int8", "float8e4m3fn"] = "int8"
    method: Literal["min-max", "mse", "hessian"] = "min-max"

    @property
    def layer_precisions(self) -> tuple[str, ...]:
        """What the weights are stored as."""
        return (self.dtype,)

    @property
    def simulated(self) -> str | None:
        """Fewer bits than exactness on any processor takes."""
        return f"weights in {self.bits} bits" if self.bits is not None and self.bits < 7 else None

    @property
    def asks(self) -> bool:
        """Only how much the loss cares is measured."""
        return self.method == "hessian"

    def needs(self, module: GraphModule) -> Iterable[Need]:
        """Ask for the weighed products of what matrices multiply.

        Raises:
            RecipeError: The method is not for ``dtype``.

        """
        range_method(self.method, self.dtype)
        for layer in linear_layers(module) if self.asks else ():
            if _is_matrix(layer):
                yield Need(name_of(layer.activation), frozenset({CurvedGram}), layer.input_axis)

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave a node alone where its weight is no constant or the target has no kernel for it."""
        spared = smallest_layers(module, self.spared)
        for node in module.graph:
            if not is_standard(node, *LINEAR) or module.reads_encoded(node, node.inputs[1]):
                continue
            layer = SMALL if node in spared and not ctx.is_assigned(node) else self._layer(node, ctx)
            if isinstance(layer, str):
                ctx.skip(node, layer)
                continue
            encoding = self._encoding(layer, module, ctx)
            if ctx.overflows(layer, array_of(layer.weight), encoding):
                ctx.skip(node, TOO_MANY)
                continue
            why = f"weight of {node.op_type}{self._given_up(layer, encoding, module, ctx)}"
            ctx.edit.encode(layer.weight, encoding, readers=[node], why=why)

    def _layer(self, node: ir.Node, ctx: PassContext) -> Layer | str:
        """Return the layer to encode, or the reason why the node is left alone."""
        reason = ctx.reason_to_leave(node, self.exclude, self.layer_precisions)
        if reason is not None:
            return reason
        if node.op_type not in ctx.target.integer_operators:
            return f"target {ctx.target.name} has no integer kernel for it"
        layer = layer_of(node)
        asked = self.patches or ctx.precision.of_layer(node) is not None
        if isinstance(layer, Layer) and not asked and makes_tokens(layer):
            return "what it gives begins a residual stream, which is in float"
        return layer

    def _encoding(self, layer: Layer, module: GraphModule, ctx: PassContext) -> Encoding:
        whole, limit = self._has_one_scale(layer), self._limit(layer, ctx)
        if limit is not None and self.bits is None and not whole:
            return self._pair_exact(layer, self._largest(layer, module, None))
        largest = self._largest(layer, module, limit)
        if whole:
            return symmetric_encoding(largest[0], self.dtype, limit=limit)
        return symmetric_encoding(largest, self.dtype, axis=layer.channel_axis, limit=limit)

    def _has_one_scale(self, layer: Layer) -> bool:
        batched = array_of(layer.weight).ndim > 2 and layer.node.op_type == "MatMul"
        return self.granularity == "tensor" or batched

    def _given_up(self, layer: Layer, encoding: Encoding, module: GraphModule, ctx: PassContext) -> str:
        """Say how much larger the steps are than those of all 8 bits, where the processor asks for it."""
        if self._limit(layer, ctx) is None or encoding.axis is None:
            return ""
        full = symmetric_encoding(self._largest(layer, module, None), self.dtype, axis=0).scale
        times = float(np.mean(encoding.scale / full))
        return f": steps {times:.2f} times those of 8 bits, so that no products saturate"

    def _limit(self, layer: Layer, ctx: PassContext) -> int | None:
        if not family_of(self.dtype).integers or self.bits == 8:
            return None
        return ctx.weight_limit(layer) if self.bits is None else limit_of_bits(self.dtype, self.bits)

    def _largest(self, layer: Layer, module: GraphModule, limit: int | None) -> NDArray[np.float64]:
        """Return the largest magnitude of each range, one for each channel or for the weight."""
        rows, whole = _by_channel(array_of(layer.weight), layer.channel_axis), self._has_one_scale(layer)
        gram = self._gram(layer, module)
        if gram is not None:
            low, high = hessian_range(rows, gram, self.dtype, whole=whole, limit=limit)
        else:
            method = range_method("mse" if self.asks else self.method, self.dtype)
            low, high = method.choose_rows(rows.reshape(1, -1) if whole else rows, self.dtype, True, limit)
        return np.maximum(-low, high)

    def _gram(self, layer: Layer, module: GraphModule) -> NDArray[np.float32] | None:
        """Return the weighed products of what the layer reads; None where nobody asked for them."""
        if not (self.asks and _is_matrix(layer)):
            return None
        known = module.measured(layer.activation).get(CurvedGram, layer.input_axis)
        return known.products if known is not None and np.isfinite(known.products).all() else None

    def _pair_exact(self, layer: Layer, largest: NDArray[np.float64]) -> Encoding:
        """Return the finest grid of each channel on which no two of its neighbours saturate."""
        weight, axis = array_of(layer.weight), layer.channel_axis
        window = weight.shape[:axis] + weight.shape[axis + 1 :]
        found = pair_exact(as_matrix(weight, axis), largest, orders_of(window))
        return replace(found, axis=axis)


def _is_matrix(layer: Layer) -> bool:
    """Tell whether the layer is a product with a matrix whose inputs are few enough for their products."""
    weight = array_of(layer.weight)
    named = is_standard(layer.node, "Gemm", "MatMul") and weight.ndim == 2
    return named and weight.size // weight.shape[layer.channel_axis] <= MOST_CHANNELS


def _by_channel(weight: NDArray[Any], axis: int) -> NDArray[Any]:
    """Return one row for each output channel."""
    return np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
