"""Encodings in blocks: a DequantizeLinear with blocks, and for tables onnxruntime's GatherBlockQuantized."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxq.ir.module import array_of
from onnxq.ir.schema import CONTRIB
from onnxq.quant.encodings import Encoding
from onnxq.quant.packing import pack, unsigned
from onnxq.rewrite.edit import Editor
from onnxq.rewrite.qdq.base import look_ups
from onnxq.rewrite.qdq.pairs import Pairs, grid_of, restore, stored_of

WHY = "only the gathered rows become float"


class BlockPairs(Pairs):
    """Integers and float8 with a scale for each block."""

    def takes(self, encoding: Encoding) -> bool:
        """Those in blocks."""
        return super().takes(encoding) and encoding.block_size is not None

    def constant(self, value: ir.Value, encoding: Encoding, readers: Sequence[ir.Node], edit: Editor) -> None:
        """Give each layer integers and scales of its own: onnxruntime makes MatMulNBits of no others."""
        gathers, layers = look_ups(value, readers)
        for layer in layers:
            stored, grid = stored_of(value, encoding, edit), grid_of(value.name, encoding, edit)
            restore(value, layer, stored, grid, encoding, edit)
        if gathers:
            _gather_blocks(value, gathers, encoding, edit)


def _gather_blocks(table: ir.Value, gathers: list[ir.Node], encoding: Encoding, edit: Editor) -> None:
    """Gather and dequantize in one: onnxruntime's operator reads several integers from each byte.

    It takes integers of type uint4 too, but eight times as slowly (onnxruntime 1.31.1).
    """
    bits = encoding.bits
    packed = pack(unsigned(encoding.quantize(array_of(table)), bits), bits)
    stored = edit.constant(f"{table.name}_q", packed, why=WHY)
    scale = edit.constant(f"{table.name}_scale", encoding.scale, why=WHY)
    zero_points = pack(encoding.zero_point.astype(np.uint8), bits)
    zero_point = edit.constant(f"{table.name}_zero_point", zero_points, why=WHY)
    for gather in gathers:
        rows = gather.outputs[0]
        restored = edit.at(gather, why=WHY).GatherBlockQuantized(
            stored,
            gather.inputs[1],
            scale,
            zero_point,
            bits=bits,
            block_size=encoding.block_size,
            gather_axis=0,
            quantize_axis=1,
            domain=CONTRIB,
            name=f"{rows.name}_dq",
        )
        edit.replace(rows, restored, why=WHY)
        edit.remove(gather, why=WHY)
