"""Write a MatMul with a weight in blocks as ONNX Runtime's own MatMulNBits.

Before: ``y = MatMul(x, DequantizeLinear<axis=0, block_size=32>(w_q, w_scale))``. After: ``y =
com.microsoft.MatMulNBits<K, N, bits, block_size>(x, w_packed, w_scale)``. The CPU provider finds the same
kernel for the plain form, but then rounds the input to 8 bits; and the form that the CUDA provider runs fast,
float16 without zero points, is written here and not left to what a session finds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.analysis.quantized import dequantized
from onnxq.ir.module import GraphModule, array_of, constant_of, constant_tensor, is_standard, name_of
from onnxq.ir.schema import CONTRIB
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.quant.packing import pack, pack_columns, unsigned

WIDTHS = {
    ir.DataType.INT4: 4,
    ir.DataType.UINT4: 4,
    ir.DataType.INT8: 8,
    ir.DataType.UINT8: 8,
}
BLOCKS = (16, 32, 64, 128, 256)
"""The lengths that the operator takes."""
GATHER = "GatherBlockQuantized"
WHY = "the operator keeps the weight in blocks"


@dataclass(frozen=True)
class FuseBlockMatmul(Pass):
    """Fuse each MatMul whose second input is a constant, dequantized by blocks of its columns.

    Options:
        accuracy: The attribute ``accuracy_level``: with 0 the CPU kernel does not round its input to
            integers, with 4 it rounds to 8 bits, as for the plain form. The CUDA kernels do not read it.
        tables: Fuse only a MatMul by the transpose of an embedding table in blocks, which stores the same
            bytes: ``share-constants`` then stores them once.

    """

    name: ClassVar[str] = "fuse-block-matmul"
    effect: ClassVar[Effect] = Effect.EXACT
    accuracy: Literal[0, 4] = 0
    tables: bool = False

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave a MatMul alone whose weight is not stored in such blocks."""
        tables = _tables(module) if self.tables else None
        for node in list(module.graph) if tables is None or tables else []:
            if not is_standard(node, "MatMul"):
                continue
            weight = _blocks_of(node)
            if isinstance(weight, str):
                ctx.skip(node, weight)
            elif weight is not None and (tables is None or _stores_table(weight, tables)):
                _fuse(node, weight, self.accuracy, ctx)


@dataclass(frozen=True)
class Blocks:
    """A weight of shape (K, N) in blocks: integers, and scales and zero points of shape (blocks, N)."""

    integers: ir.Value
    scale: ir.Value
    zero_point: ir.Value | None
    bits: int
    block: int


def _tables(module: GraphModule) -> list[NDArray[np.uint8]]:
    """Return what is stored of the embedding tables in blocks."""
    gathers = [node for node in module.graph if (node.domain, node.op_type) == (CONTRIB, GATHER)]
    found = (constant_of(node.inputs[0]) for node in gathers)
    return [array for array in found if array is not None and array.dtype == np.uint8]


def _stores_table(weight: Blocks, tables: list[NDArray[np.uint8]]) -> bool:
    bits, stored = weight.bits, array_of(weight.integers)
    sized = [table for table in tables if 8 * table.size == bits * stored.size]
    packed = pack_columns(stored, bits, weight.block).ravel() if sized else None
    return packed is not None and any(np.array_equal(packed, table.ravel()) for table in sized)


def _fuse(node: ir.Node, weight: Blocks, accuracy: int, ctx: PassContext) -> None:
    name, output, op = name_of(weight.integers), node.outputs[0], ctx.edit.at(node, why=WHY)
    integers, zero_point = array_of(weight.integers), _packed_zero_point(weight)
    packed = op.constant(f"{name}_packed", pack_columns(integers, weight.bits, weight.block))
    scale = op.constant(f"{name_of(weight.scale)}_by_column", array_of(weight.scale).T)
    fused = op.MatMulNBits(
        node.inputs[0],
        packed,
        scale,
        None if zero_point is None else op.constant(f"{name}_zero_point_packed", zero_point),
        K=integers.shape[0],
        N=integers.shape[1],
        bits=weight.bits,
        block_size=weight.block,
        accuracy_level=accuracy,
        domain=CONTRIB,
        name=f"{output.name}_fused",
    )
    ctx.edit.replace(output, fused, why=WHY)
    ctx.edit.remove(node, why=WHY)


def _blocks_of(node: ir.Node) -> Blocks | str | None:
    """Return the weight, why it is none, or None where nothing is dequantized."""
    found = dequantized(node.inputs[1])
    if found is None:
        return None
    integers, scale, zero_point = found.stored, found.scale, found.zero_point
    if constant_tensor(integers) is None or constant_tensor(scale) is None:
        return "its weight is no constant"
    if zero_point is not None and constant_of(zero_point) is None:
        return "its zero points are no constant"
    if array_of(integers).ndim != 2 or integers.dtype not in WIDTHS:
        return "its weight is no matrix of 4 or 8 bits"
    if found.block_size not in BLOCKS or found.axis not in (0, -2):
        return "its weight is not cut into blocks along its columns"
    return Blocks(integers, scale, zero_point, WIDTHS[integers.dtype], found.block_size)


def _packed_zero_point(weight: Blocks) -> NDArray[np.uint8] | None:
    """Return the zero points as stored; None where all are the middle, which is the operator's default."""
    integers, shape = array_of(weight.integers), array_of(weight.scale).shape
    given = np.zeros(shape, integers.dtype) if weight.zero_point is None else array_of(weight.zero_point)
    stored = unsigned(given, weight.bits)
    if (stored == 2 ** (weight.bits - 1)).all():
        return None
    return pack(np.ascontiguousarray(stored.T), weight.bits)
