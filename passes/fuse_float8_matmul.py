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

from onnxq.ir.module import GraphModule, array_of, attribute, constant_of, input_of, is_standard, name_of
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
            dequantize = _dequantize_of(node) if is_standard(node, "MatMul") else None
            if dequantize is None:
                continue
            reason = _reason(node, dequantize)
            if reason is not None:
                ctx.skip(node, reason)
                continue
            _fuse(node, dequantize, ctx)


def _fuse(node: ir.Node, dequantize: ir.Node, ctx: PassContext) -> None:
    weight, scale = dequantize.inputs[:2]
    output = node.outputs[0]
    stored = [
        ctx.edit.constant(f"{name_of(value)}_by_column", np.ascontiguousarray(array_of(value).T), why=WHY)
        for value in (weight, scale)
    ]
    fused = ctx.edit.insert(
        FLOAT8_PRODUCT,
        [node.inputs[0], *stored],
        f"{output.name}_fused",
        before=node,
        domain=CONTRIB,
        attributes={"block_size": attribute(dequantize, "block_size", 0)},
        dtype=output.dtype,
        shape=output.shape,
        why=WHY,
    )
    ctx.edit.replace(output, fused, why=WHY)
    ctx.edit.remove(node, why=WHY)


def _dequantize_of(node: ir.Node) -> ir.Node | None:
    """Return what dequantizes the node's weight from float8; None where nothing does."""
    source = node.inputs[1].producer() if node.inputs[1] is not None else None
    if source is not None and is_standard(source, "Cast") and source.inputs[0] is not None:
        source = source.inputs[0].producer()
    if source is None or not is_standard(source, "DequantizeLinear") or source.inputs[0] is None:
        return None
    return source if source.inputs[0].dtype is ir.DataType.FLOAT8E4M3FN else None


def _reason(node: ir.Node, dequantize: ir.Node) -> str | None:
    weight, scale, zero_point = (input_of(dequantize, index) for index in range(3))
    if node.outputs[0].dtype not in NARROW:
        return "it is neither in float16 nor in bfloat16"
    if constant_of(weight) is None or constant_of(scale) is None:
        return "its weight is no constant"
    if zero_point is not None and (constant_of(zero_point) is None or array_of(zero_point).any()):
        return "float8 has no zero point but 0"
    blocks = attribute(dequantize, "block_size", 0) and attribute(dequantize, "axis", 1) in (0, -2)
    if not blocks or array_of(weight).ndim != 2 or array_of(scale).dtype != np.float32:
        return "its weight is not cut into blocks along its columns, with scales in float32"
    return None
