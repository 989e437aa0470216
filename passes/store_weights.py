"""Decide that weights are stored in 8 bits which no other pass encodes, and restored in each run.

Those of GRU, RNN and Einsum, what stands on the left of a product, and what the bodies of If, Loop and Scan
multiply: no kernel multiplies them as integers, but the file is a quarter as large.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxq.analysis.layers import has_numbers
from onnxq.analysis.weights import Weight, all_weights
from onnxq.ir.module import LINEAR, GraphModule, array_of, is_standard, tensor_of
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.quant.encodings import Encoding, symmetric_encoding


@dataclass(frozen=True)
class StoreWeights(Pass):
    """Encode each such weight with a scale for each channel of what is computed; run it behind the others.

    Options:
        minimum: Weights of fewer elements stay in float: scales and nodes take what their integers save.
        exclude: Nodes to leave in float: operators, or names of nodes, in which * stands for anything.

    """

    name: ClassVar[str] = "store-weights"
    effect: ClassVar[Effect] = Effect.EXACT
    encodes_weights: ClassVar[bool] = True
    minimum: int = 2048
    exclude: tuple[str, ...] = ()

    @property
    def layer_precisions(self) -> tuple[str, ...]:
        """What the weights are stored as."""
        return ("int8",)

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Look at the bodies of the graph too; a constant of a body is one of the main graph by now."""
        for weight in list(all_weights(module.graph)):
            if module.reads_encoded(weight.node, weight.value) or _is_of_layer(weight, module):
                continue
            reason = self._reason(weight, ctx)
            if reason is None:
                why = f"weight of {weight.node.op_type}"
                ctx.edit.encode(weight.value, _encoding(weight), readers=[weight.node], why=why)
            else:
                ctx.skip(weight.node, reason)

    def _reason(self, weight: Weight, ctx: PassContext) -> str | None:
        """Return why the weight stays in float, or None."""
        reason = ctx.reason_to_leave(weight.node, self.exclude, self.layer_precisions)
        if reason is None and tensor_of(weight.value).size < self.minimum:
            reason = f"its weight has fewer than {self.minimum} elements"
        if reason is None and not has_numbers(weight.value):
            reason = "its weight holds NaN or infinity"
        return reason


def _is_of_layer(weight: Weight, module: GraphModule) -> bool:
    """Tell whether the weight is one that ``encode-weights`` has looked at."""
    return weight.node.graph is module.graph and is_standard(weight.node, *LINEAR) and weight.index == 1


def _encoding(weight: Weight) -> Encoding:
    channels = np.moveaxis(array_of(weight.value), weight.axis, 0)
    largest = np.abs(channels.reshape(len(channels), -1)).max(axis=1)
    return symmetric_encoding(largest, axis=weight.axis)
