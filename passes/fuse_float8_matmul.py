"""Write a narrow MatMul with a weight in blocks of float8 as ONNX Runtime's own operator for it.

Before: ``y = MatMul(x, Cast<float16>(DequantizeLinear<axis=0, block_size=128>(w_q, w_scale)))`` in float16.
After: ``y = com.microsoft.MatMulBlockQuantizedFp8Weight<block_size=128>(x, w_q, w_scale)``
with both constants transposed. The plain form saves room in the file and nowhere else: ONNX Runtime has no
other kernel for it than DequantizeLinear, which makes the whole weight float again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxq.analysis.quantized import Quantized, dequantized
from onnxq.ir.module import GraphModule, array_of, constant_of, constant_tensor, is_standard, name_of
from onnxq.ir.schema import CONTRIB, FLOAT8_PRODUCT
from onnxq.passmanager.base import Effect, Pass, PassContext

NARROW = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
WHY = "the operator keeps the weight in float8"


@dataclass(frozen=True)
class FuseFloat8Matmul(Pass):
    """Fuse each MatMul in float16 or bfloat16 whose second input is a constant in blocks of float8.

    The operator is for NVIDIA GPUs: no other provider has a kernel. For up to 8 rows its kernel reads float8,
    for more it dequantizes the weight first.

    Source:
        onnxruntime's page docs/contrib_ops/cuda/matmul_block_scaled_fp8.md.

    """

    name: ClassVar[str] = "fuse-float8-matmul"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave a MatMul alone that is not narrow, or whose weight is not stored in such blocks."""
        for node in list(module.graph):
            weight = _weight_of(node) if is_standard(node, "MatMul") else None
            if weight is None:
                continue
            reason = _reason(node, weight)
            if reason is not None:
                ctx.skip(node, reason)
                continue
            _fuse(node, weight, ctx)


def _fuse(node: ir.Node, weight: Quantized, ctx: PassContext) -> None:
    op, output, name = ctx.edit.at(node, why=WHY), node.outputs[0], f"{node.outputs[0].name}_fused"
    stored = [
        op.constant(f"{name_of(value)}_by_column", array_of(value).T)
        for value in (weight.stored, weight.scale)
    ]
    block = weight.block_size
    fused = op(FLOAT8_PRODUCT, node.inputs[0], *stored, block_size=block, domain=CONTRIB, name=name)
    ctx.edit.replace(output, fused, why=WHY)
    ctx.edit.remove(node, why=WHY)


def _weight_of(node: ir.Node) -> Quantized | None:
    """Return what the node's weight is dequantized from, if that is float8."""
    cast = node.inputs[1].producer() if node.inputs[1] is not None else None
    found = dequantized(cast.inputs[0] if cast is not None and is_standard(cast, "Cast") else node.inputs[1])
    return found if found is not None and found.stored.dtype is ir.DataType.FLOAT8E4M3FN else None


def _reason(node: ir.Node, weight: Quantized) -> str | None:
    stored, scale, zero_point = weight.stored, weight.scale, weight.zero_point
    if node.outputs[0].dtype not in NARROW:
        return "it is neither in float16 nor in bfloat16"
    if constant_tensor(stored) is None or constant_tensor(scale) is None:
        return "its weight is no constant"
    if zero_point is not None and (constant_of(zero_point) is None or array_of(zero_point).any()):
        return "float8 has no zero point but 0"
    blocks = weight.block_size is not None and weight.axis in (0, -2)
    if not blocks or array_of(stored).ndim != 2 or array_of(scale).dtype != np.float32:
        return "its weight is not cut into blocks along its columns, with scales in float32"
    return None
