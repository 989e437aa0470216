"""Decide encodings for embedding tables that Gather reads: int8, or 4 or 8 bits in blocks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.analysis.layers import has_numbers, linear_layers
from onnxq.ir.module import (
    GraphModule,
    array_of,
    attribute,
    constant_of,
    input_of,
    is_float,
    is_standard,
    rank_of,
    tensor_of,
)
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.quant.encodings import Encoding, block_encoding, symmetric_encoding

WIDTHS: dict[str, Literal[4, 8]] = {"w4": 4, "w8": 8}
"""What a recipe calls the widths of blocks that it assigns to layers."""


@dataclass(frozen=True)
class EncodeEmbeddings(Pass):
    """Encode each float table with one scale per row, and as the head of the model is, if that is the same.

    The integers are gathered and only the gathered rows dequantized, so that the table stays small in
    memory too. A row is one token's vector: tokens differ more in size than dimensions do (MiniLM's tables:
    42.8 dB against 39.1 dB with one scale per column).

    Options:
        minimum: Tables of fewer elements stay in float: they save nothing.
        block: So many neighbours of a row share a scale and a zero point, for onnxruntime's
            GatherBlockQuantized; none for int8.
        bits: The width of what is stored in blocks.

    """

    name: ClassVar[str] = "encode-embeddings"
    effect: ClassVar[Effect] = Effect.EXACT
    minimum: int = 1024
    block: Literal[32, 64, 128] | None = None
    bits: Literal[4, 8] = 4

    @property
    def layer_precisions(self) -> tuple[str, ...]:
        """Both widths of blocks, whichever the option says, or int8."""
        return ("int8",) if self.block is None else tuple(WIDTHS)

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Look at every Gather whose data is a float32 constant."""
        for node in module.graph:
            if not is_standard(node, "Gather"):
                continue
            table = node.inputs[0]
            if table is None or constant_of(table) is None or not is_float(table):
                continue
            chosen = self._assigned(node, ctx)
            reason = ctx.reason_to_leave(node, (), self.layer_precisions) or chosen._reason(node)
            if reason is not None:
                ctx.skip(node, reason)
                continue
            encoding = _grid_of_head(table, module) if self.block is None else None
            encoding = encoding or chosen._encoding(array_of(table))
            ctx.edit.encode(table, encoding, readers=[node], why="embedding table")

    def _assigned(self, node: ir.Node, ctx: PassContext) -> EncodeEmbeddings:
        """Return the pass with the width that is assigned to the table's reader."""
        wanted = ctx.precision.of_layer(node)
        return replace(self, bits=WIDTHS[wanted]) if wanted in WIDTHS else self

    def _encoding(self, table: NDArray[np.float32]) -> Encoding:
        if self.block is None:
            return symmetric_encoding(np.maximum(-table.min(axis=1), table.max(axis=1)), axis=0)
        return block_encoding(table, f"uint{self.bits}", 1, self.block)

    def _reason(self, node: ir.Node) -> str | None:
        if constant_of(input_of(node, 1)) is not None:
            return "its rows are chosen by constants"
        if rank_of(node.inputs[0]) != 2 or attribute(node, "axis", 0) != 0:
            return "its table is not a matrix of rows"
        if not has_numbers(node.inputs[0]):
            return "its table holds NaN or infinity"
        if array_of(node.inputs[0]).size < max(self.minimum, 1):
            return f"its table has fewer than {max(self.minimum, 1)} elements"
        if self.block is not None and self.bits == 4 and array_of(node.inputs[0]).shape[1] % 2:
            return "its rows are of odd length, and two values share a byte"
        return None


def _grid_of_head(table: ir.Value, module: GraphModule) -> Encoding | None:
    """Return the grid of a layer that multiplies by the table's transpose, so that both are stored as one.

    Both have one scale for each row of the table; that of the layer may be larger, so that products fit.
    """
    numbers, shape = array_of(table), array_of(table).shape
    for layer in linear_layers(module):
        encoding, tensor = module.encoding_at(layer.node, 1), tensor_of(layer.weight)
        if encoding is None or encoding.dtype != "int8" or encoding.axis is None:
            continue
        if layer.channel_axis == 1 and tensor.shape == shape[::-1] and _is_turned(tensor.numpy(), numbers):
            return replace(encoding, axis=0)
    return None


def _is_turned(weight: NDArray[np.float32], table: NDArray[np.float32]) -> bool:
    """Tell whether one is the transpose of the other; most differ in the first row already."""
    return np.array_equal(weight[:, 0], table[0]) and np.array_equal(weight, table.T)
