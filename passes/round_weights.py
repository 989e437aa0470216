"""Round weights so that their layers' outputs err least on the calibration data.

Before: ``y = MatMul(x, w)``, ``encode w``. After: ``y = MatMul(x, w')`` under the same encoding, where each
value of ``w'`` lies on its grid already, so that quantizing it later changes nothing. Most values are those
of rounding to nearest; some go to the other neighbour, or further, and make up for the errors of others.

Source: Frantar et al., 2022, arXiv:2210.17323 (GPTQ); inputs are those of the float model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

import numpy as np

from onnxq.ir.layers import Layer, linear_layers
from onnxq.ir.module import GraphModule, array_of, name_of
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.quant.facts import Need, Stat
from onnxq.quant.rounding import output_error, round_to_outputs

MOST_INPUTS = 4096
"""A layer with more keeps its weight: the products of its inputs would take more than 128 MB."""


@dataclass(frozen=True)
class RoundWeights(Pass):
    """Round the encoded weight of each MatMul; run it right after the weights are encoded.

    Options:
        layers: Names of nodes, in which * stands for anything.

    """

    name: ClassVar[str] = "round-weights"
    effect: ClassVar[Effect] = Effect.QUANTIZING
    layers: tuple[str, ...] = ("*",)

    def needs(self, module: GraphModule) -> Iterable[Need]:
        """Ask for the products of each layer's input channels."""
        for layer in self._products(module):
            yield Need(name_of(layer.activation), frozenset({Stat.GRAM}))

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave a weight to rounding to nearest where that errs no more, or where it has several readers."""
        for layer in self._products(module):
            gram = module.facts[name_of(layer.activation)].gram
            if gram is None:
                ctx.skip(layer.node, "its input never had an element")
                continue
            if not np.isfinite(gram).all():
                ctx.skip(layer.node, "its input is infinite somewhere")
                continue
            if len(layer.weight.consumers()) > 1:
                ctx.skip(layer.node, "others read its weight")
                continue
            weight, encoding = array_of(layer.weight), module.decisions[name_of(layer.weight)].encoding
            rounded = round_to_outputs(weight, gram, encoding)
            nearest = output_error(weight, encoding.dequantize(encoding.quantize(weight)), gram)
            found = output_error(weight, rounded, gram)
            if found >= nearest:
                ctx.skip(layer.node, "rounding to nearest errs no more")
                continue
            why = f"squared error of its output: {found / nearest:.2f} of what rounding to nearest causes"
            constant = ctx.edit.constant(f"{layer.weight.name}_rounded", rounded, why=why)
            ctx.edit.forget(layer.weight, why=why)
            ctx.edit.rewire(layer.node, 1, constant, why=why)
            ctx.edit.encode(constant, encoding, readers=[layer.node], why=why)

    def _products(self, module: GraphModule) -> Iterator[Layer]:
        for layer in linear_layers(module):
            named = any(fnmatchcase(layer.node.name or "", pattern) for pattern in self.layers)
            if (
                layer.node.op_type != "MatMul"
                or not named
                or not module.reads_encoded(layer.node, layer.weight)
            ):
                continue
            weight = array_of(layer.weight)
            if weight.ndim == 2 and len(weight) <= MOST_INPUTS:
                yield layer
