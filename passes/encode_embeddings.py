"""Decide int8 encodings for embedding tables that Gather reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxq.ir.module import (
    GraphModule,
    array_of,
    attribute,
    constant_of,
    input_of,
    is_float,
    is_standard,
    rank_of,
)
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.quant.encoding import symmetric_encoding


@dataclass(frozen=True)
class EncodeEmbeddings(Pass):
    """Encode each float table with one scale per column.

    The integers are gathered and only the gathered rows dequantized, so that the table stays small in
    memory too.

    Options:
        minimum: Tables of fewer elements stay in float: they save nothing.

    """

    name: ClassVar[str] = "encode-embeddings"
    effect: ClassVar[Effect] = Effect.EXACT
    minimum: int = 1024

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """A table is a constant matrix whose rows are gathered by computed indices."""
        for node in module.graph:
            if not is_standard(node, "Gather"):
                continue
            table = node.inputs[0]
            reason = self._reason(node, table)
            if table is None or reason is not None:
                ctx.skip(node, reason or "it has no table")
                continue
            columns = np.abs(array_of(table)).max(axis=0)
            ctx.edit.encode(table, symmetric_encoding(columns, axis=1), readers=[node], why="embedding table")

    def _reason(self, node: ir.Node, table: ir.Value | None) -> str | None:
        if constant_of(table) is None or constant_of(input_of(node, 1)) is not None:
            return "it does not look rows up in a constant table"
        if not is_float(table) or rank_of(table) != 2 or attribute(node, "axis", 0) != 0:
            return "its table is not a float32 matrix of rows"
        return (
            f"its table has fewer than {self.minimum} elements"
            if array_of(table).size < self.minimum
            else None
        )
