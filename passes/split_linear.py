"""Split the weight of each linear layer into parts of near values with a grid for each: SplitQuant.

Before: ``y = MatMul(x, w)``. After, as ``branches``: ``y_0 = MatMul(x, w_0); y_1 = MatMul(x, w_1); y_2 =
MatMul(x, w_2); y = Sum(y_0, y_1, y_2)``, where each ``w_k`` holds the values of its part and zeros; a bias
that the operator adds is cut into parts of its own. This computes the same function, and each branch has
an encoding of a few bits with an exact zero. After, as ``fused``: ``y = MatMul(x, w_split)``, with every
value rounded to the grid of its part and an int8 encoding for all of them: one product, one integer kernel.

Source: Song and Lin, 2025, arXiv:2501.12428.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.analysis.layers import Layer, layer_of
from onnxq.analysis.products import TOO_MANY
from onnxq.ir.module import LINEAR, GraphModule, array_of, constant_of, is_standard
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.passmanager.memo import content_of
from onnxq.quant.encodings import Encoding, symmetric_encoding
from onnxq.quant.split import (
    distinct_values,
    packed_bits,
    part_encoding,
    part_labels,
    part_of,
    rounded_around_zero,
    rounded_tightly,
    row_length,
    rows_of,
    weight_of,
)

SPLIT = ("Conv", "Gemm", "MatMul")
PACKED_OPSETS = {2: 25, 4: 21}
"""The operator sets that brought integers of so many bits."""
FLOAT_BITS, CODE_BITS = 32, 8


@dataclass(frozen=True)
class SplitLinear(Pass):
    """Split each constant weight of a layer that the target runs in integers.

    Options:
        parts: How many; 1 is the plain grid that splitting is compared with.
        mode: ``branches``, one layer for each part, or ``fused``, one layer.
        bits: The width of each part's grid.
        scope: What shares cuts and grids: a ``tensor``, a ``channel`` or a ``block`` of a channel's values.
        cuts: What the cuts do best: ``kmeans`` as published, ``range`` or ``mse`` for smaller errors.
        block: The length of a block; see ``onnxq.quant.split.row_length``.
        tight: Let each grid of a fused weight cover its part alone, without an exact zero.
        packed: Store the branches in the types of 2 and 4 bits instead of int8.
        exclude: Layers to leave in float: operators, or names of nodes, in which * stands for anything.

    """

    name: ClassVar[str] = "split-linear"
    effect: ClassVar[Effect] = Effect.QUANTIZING
    encodes_weights: ClassVar[bool] = True
    parts: Literal[1, 2, 3] = 3
    mode: Literal["branches", "fused"] = "fused"
    bits: Literal[2, 4, 8] = 4
    scope: Literal["tensor", "channel", "block"] = "channel"
    cuts: Literal["kmeans", "range", "mse"] = "range"
    block: Literal[32, 64, 128] = 128
    tight: bool = True
    packed: bool = False
    exclude: tuple[str, ...] = ()

    @property
    def layer_precisions(self) -> tuple[str, ...]:
        """What the parts are stored as."""
        return (self._dtype(),)

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave a node alone where its weight is no constant or its branches cannot be stored."""
        for node in list(module.graph):
            if not is_standard(node, *LINEAR):
                continue
            layer = self._layer(node, module, ctx)
            if isinstance(layer, str):
                ctx.skip(node, layer)
            elif self.mode == "fused":
                self._fuse(layer, ctx)
            else:
                self._branch(layer, ctx)

    def _layer(self, node: ir.Node, module: GraphModule, ctx: PassContext) -> Layer | str:
        """Return the layer to split, or the reason why the node is left alone."""
        reason = ctx.reason_to_leave(node, self.exclude, self.layer_precisions)
        if reason is not None:
            return reason
        if node.op_type not in SPLIT:
            return f"only {', '.join(SPLIT)} are split"
        if node.op_type not in ctx.target.integer_operators:
            return f"target {ctx.target.name} has no integer kernel for it"
        layer = layer_of(node)
        if isinstance(layer, Layer):
            return self._reason(array_of(layer.weight), module.opset) or layer
        return layer

    def _reason(self, weight: NDArray[Any], opset: int) -> str | None:
        if self.mode == "fused":
            return "packed integers cannot hold three grids in one: mode=branches" if self.packed else None
        wanted = PACKED_OPSETS.get(self.bits, 0) if self.packed else 0
        wanted = max(wanted, 21 if self.scope == "block" else 0)
        if opset < wanted:
            return f"operator set {opset} cannot store it; convert-opset{{minimum={wanted}}} can"
        if self.scope == "block" and weight.ndim != 2:
            return "its weight is not a matrix, and has no blocks"
        return None

    def _fuse(self, layer: Layer, ctx: PassContext) -> None:
        """Round each part to its grid, put the parts together and store them in one step size."""
        weight, limit = array_of(layer.weight), ctx.weight_limit(layer)
        axis, length = layer.channel_axis, self._length(layer)
        key = str(replace(self, exclude=())), axis, length, limit, content_of(weight)
        joined, encoding, cost = ctx.memo.of(key, lambda: self._joined(weight, axis, length, limit))
        if ctx.overflows(layer, joined, encoding):
            ctx.skip(layer.node, TOO_MANY)
            return
        value = ctx.edit.constant(f"{layer.weight.name}_split", joined, why=f"{self.parts} parts in one")
        ctx.edit.rewire(layer.node, 1, value, why="reads all parts at once")
        ctx.edit.encode(value, encoding, readers=[layer.node], why=cost)

    def _joined(
        self, weight: NDArray[Any], axis: int, length: int, limit: int | None
    ) -> tuple[NDArray[np.float32], Encoding, str]:
        """Return a weight of the parts, rounded, with its encoding, and what it costs in words."""
        rows = rows_of(weight, axis, length)
        labels = part_labels(rows, self.parts, self.cuts, self.bits)
        rounded = (rounded_tightly if self.tight else rounded_around_zero)(rows, labels, self.bits)
        joined = weight_of(rounded, weight, axis)
        encoding = _carrier(joined, None if length == weight.size else axis, limit)
        codes = rows_of(encoding.quantize(joined), axis, length)
        packed = packed_bits(distinct_values(codes), length, CODE_BITS)
        packed += FLOAT_BITS * encoding.scale.size / weight.size
        cost = f"{distinct_values(codes)} values: {packed:.2f} bits a weight packed, {CODE_BITS} as stored"
        return joined, encoding, cost

    def _branch(self, layer: Layer, ctx: PassContext) -> None:
        """Let a layer for each part stand in the place of ``layer``, and add what they compute."""
        weight, axis, length = array_of(layer.weight), layer.channel_axis, self._length(layer)
        rows = rows_of(weight, axis, length)
        labels, dtype = part_labels(rows, self.parts, self.cuts, self.bits), self._dtype()
        limit = ctx.weight_limit(layer) if dtype == "int8" else None
        parts = [part_of(rows, labels, part) for part in range(self.parts)]
        grids = [
            _shaped(part_encoding(part, self.bits, dtype, limit), weight, axis, length) for part in parts
        ]
        weights = [weight_of(part, weight, axis) for part in parts]
        if any(ctx.overflows(layer, *part) for part in zip(weights, grids, strict=True)):
            ctx.skip(layer.node, TOO_MANY)
            return
        why, outputs = "the parts add up to the layer", []
        for part, bias in enumerate(self._biases(layer, ctx)):
            op = ctx.edit.at(layer.node, why=f"part {part + 1} of {self.parts}")
            value, name = (
                op.constant(f"{layer.weight.name}_{part}", weights[part]),
                f"{layer.output.name}_{part}",
            )
            outputs.append(op.alike(layer.node, layer.activation, value, bias, name=name))
            ctx.edit.encode(value, grids[part], why=self._cost(length))
        ctx.edit.replace(layer.output, ctx.edit.at(layer.node, why=why).Sum(*outputs), why=why)
        ctx.edit.remove(layer.node, why="its parts stand in its place")

    def _length(self, layer: Layer) -> int:
        weight = array_of(layer.weight)
        scope = "tensor" if weight.ndim > 2 and layer.node.op_type == "MatMul" else self.scope
        return row_length(weight, layer.channel_axis, scope, self.block)

    def _dtype(self) -> str:
        return f"uint{self.bits}" if self.packed and self.bits in PACKED_OPSETS else "int8"

    def _cost(self, length: int) -> str:
        packed = self.parts * (self.bits + (FLOAT_BITS + self.bits) / length)
        stored = self.parts * (self.bits if self.packed else CODE_BITS)
        return f"{packed:.2f} bits a weight packed, {stored} as stored"

    def _biases(self, layer: Layer, ctx: PassContext) -> list[ir.Value | None]:
        """Return what each branch adds: parts of a constant bias; another bias goes to the first branch."""
        bias = constant_of(layer.bias)
        if layer.bias is None or bias is None or bias.size == 0:
            return [layer.bias, *[None] * (self.parts - 1)]
        labels = part_labels(bias.reshape(1, -1), self.parts, self.cuts, self.bits).reshape(bias.shape)
        return [
            ctx.edit.constant(
                f"{layer.bias.name}_{part}", part_of(bias, labels, part), why="part of the bias"
            )
            for part in range(self.parts)
        ]


def _carrier(weight: NDArray[np.float32], axis: int | None, limit: int | None) -> Encoding:
    """Return the int8 encoding of a joined weight: symmetric, as integer kernels want it."""
    others = tuple(other for other in range(weight.ndim) if other != axis)
    largest = np.abs(weight).max(axis=others if axis is not None else None)
    return symmetric_encoding(largest, axis=axis, limit=limit)


def _shaped(encoding: Encoding, weight: NDArray[Any], axis: int, length: int) -> Encoding:
    """Return the encoding of rows as one of the weight that they come from."""
    scale, zero_point = encoding.scale, encoding.zero_point
    if length == weight.size:
        return replace(encoding, scale=scale[0], zero_point=zero_point[0], axis=None)
    channels = weight.shape[axis]
    if len(scale) == channels:
        return replace(encoding, axis=axis)
    blocks = channels, -1
    scale, zero_point = scale.reshape(blocks), zero_point.reshape(blocks)
    if axis == 1:
        scale, zero_point = scale.T, zero_point.T
    return replace(encoding, scale=scale, zero_point=zero_point, axis=1 - axis, block_size=length)
