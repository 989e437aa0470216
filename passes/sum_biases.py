"""Write the bias Add behind a two-dimensional quantized MatMul as Sum.

Before: ``h = MatMul(x, w); y = Add(h, b)``. After: ``h = MatMul(x, w); y = Sum(h, b)``. ONNX Runtime first
turns a MatMul and an Add on matrices into a Gemm, and a Gemm with a float bias is never run in integers:
0.45 times the speed of float instead of 3 times (measured with onnxruntime 1.31.1). The numbers are the
same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnxq.analysis.layers import Layer, linear_layers
from onnxq.ir.module import GraphModule, is_standard, rank_of, sole_reader
from onnxq.passmanager.base import Effect, Pass, PassContext


@dataclass(frozen=True)
class SumBiases(Pass):
    """Rewrite the Add behind each MatMul whose weight is going to be quantized."""

    name: ClassVar[str] = "sum-biases"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """A MatMul of unknown rank is treated like a two-dimensional one, as Sum costs it nothing."""
        for layer in linear_layers(module):
            reader = sole_reader(layer.output)
            if reader is not None and is_standard(reader, "Add") and _may_become_gemm(layer, module):
                ctx.edit.retype(reader, "Sum", why="keeps onnxruntime from a Gemm with a float bias")


def _may_become_gemm(layer: Layer, module: GraphModule) -> bool:
    quantized = layer.node.op_type == "MatMul" and module.reads_encoded(layer.node, layer.weight)
    return quantized and rank_of(layer.activation) in (None, 2)
