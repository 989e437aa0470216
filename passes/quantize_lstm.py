"""Run each LSTM on integers: weights in 8 bits, and what they multiply quantized at run time.

Before: ``y = LSTM(x, w, r, b)``. After: ``y = com.microsoft.DynamicQuantizeLSTM(x, w_q, r_q, b, , , , ,
w_scale, w_zero_point, r_scale, r_zero_point)``. ONNX Runtime has no such kernel for GRU and RNN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxq.analysis.layers import has_numbers
from onnxq.analysis.weights import RECURRENT
from onnxq.ir.module import (
    GraphModule,
    array_of,
    attribute,
    constant_tensor,
    input_of,
    is_float,
    is_standard,
    name_of,
)
from onnxq.ir.schema import CONTRIB
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.processor import EXACT_LIMIT
from onnxq.quant.encodings import symmetric_encoding
from onnxq.rewrite.builder import Builder

WEIGHTS = (1, 2)
"""Which inputs are multiplied: by what comes in, and by the state."""
INPUTS = 8
"""How many inputs a LSTM may have."""
WHY = "its weights are multiplied as integers"


@dataclass(frozen=True)
class QuantizeLstm(Pass):
    """Quantize the weights of each LSTM, with a scale for each row of each gate and direction.

    Where products of 8 bits saturate, weights keep to 7.

    Options:
        minimum: A LSTM with fewer weights stays in float: it gains nothing.

    Source:
        The kernel wants weights of int8 without zero points, of shape (directions, inputs, 4 * hidden), and
        scales of shape (directions, 4 * hidden): onnxruntime 1.31.1,
        contrib_ops/cpu/quantization/dynamic_quantize_lstm.cc.

    """

    name: ClassVar[str] = "quantize-lstm"
    effect: ClassVar[Effect] = Effect.QUANTIZING
    minimum: int = 4096

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Look at the main graph alone: a body is run too often to quantize in."""
        for node in list(module.graph):
            if not is_standard(node, *RECURRENT):
                continue
            reason = self._reason(node)
            if reason is None:
                _quantize(node, ctx)
            else:
                ctx.skip(node, reason)

    def _reason(self, node: ir.Node) -> str | None:
        """Return why the node stays as it is, or None."""
        if node.op_type != "LSTM":
            return "ONNX Runtime has no kernel on integers for it"
        weights = [node.inputs[index] for index in WEIGHTS]
        tensors = [constant_tensor(value) for value in weights]
        if not all(map(is_float, (*weights, node.inputs[0]))):
            return "it does not compute in float32"
        if None in tensors:
            return "its weights are computed at run time"
        if not all(map(has_numbers, weights)):
            return "its weights hold NaN or infinity"
        if attribute(node, "layout", 0):
            return "its batch comes first, and the kernel on integers wants time first"
        if sum(tensor.size for tensor in tensors if tensor is not None) < self.minimum:
            return f"it has fewer than {self.minimum} weights"
        return None


def _quantize(node: ir.Node, ctx: PassContext) -> None:
    op = ctx.edit.at(node, why=WHY)
    limit = EXACT_LIMIT if ctx.target.processor.saturates else None
    integers, scales = zip(*(_stored(node.inputs[index], limit, op) for index in WEIGHTS), strict=True)
    others = [input_of(node, index) for index in range(len(WEIGHTS) + 1, INPUTS)]
    grids = [value for pair in scales for value in pair]
    options = {name: found.value for name, found in node.attributes.items() if name != "layout"}
    names = [f"{name_of(value) or name_of(node.inputs[0])}_quantized" for value in node.outputs]
    made = op.several(
        "DynamicQuantizeLSTM",
        node.inputs[0],
        *integers,
        *others,
        *grids,
        names=names,
        like=node.outputs,
        domain=CONTRIB,
        **options,
    )
    for old, new in zip(node.outputs, made, strict=True):
        if old.uses() or old.is_graph_output():
            ctx.edit.replace(old, new, why=WHY)
    ctx.edit.remove(node, why=WHY)


def _stored(
    value: ir.Value | None, limit: int | None, op: Builder
) -> tuple[ir.Value, tuple[ir.Value, ir.Value]]:
    """Return the integers of a weight, laid out as the kernel wants them, and scales and zero points."""
    weight, name = array_of(value), name_of(value)
    directions, gates, inputs = weight.shape
    rows = weight.reshape(-1, inputs)
    encoding = symmetric_encoding(np.abs(rows).max(axis=1), axis=0, limit=limit)
    laid_out = encoding.quantize(rows).reshape(weight.shape).transpose(0, 2, 1)
    scale = op.constant(f"{name}_scale", encoding.scale.reshape(directions, gates))
    zero_point = op.constant(f"{name}_zero_point", np.zeros((directions, gates), np.int8))
    return op.constant(f"{name}_q", laid_out), (scale, zero_point)
