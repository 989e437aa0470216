"""Round weights so that their layers' outputs err least on the calibration data.

Before: ``y = MatMul(x, w)``, ``encode w``. After: ``y = MatMul(x, w')`` under the same encoding, where each
value of ``w'`` lies on its grid already, so that quantizing it later changes nothing. Most values are those
of rounding to nearest; some go to the other neighbour, or further, and make up for the errors of others. A
Conv is a product as well, of the patches of its input. The mean of a layer's output is kept with all else,
so that ``correct-bias`` finds nothing to correct behind this pass.

Sources: Frantar et al., 2022, arXiv:2210.17323 (GPTQ); Nagel et al., 2020, arXiv:2004.10568 (AdaRound).
Inputs are those of the float model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from onnxq.analysis.layers import Layer, linear_layers
from onnxq.ir.module import GraphModule, array_of, is_standard, name_of
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.passmanager.memo import content_of
from onnxq.passmanager.patches import patch_grams, patch_size
from onnxq.quant.adaround import learn_rounding
from onnxq.quant.encodings import Encoding
from onnxq.quant.facts import Need
from onnxq.quant.pairs import LARGEST_PAIR, Order, hold_pairs, largest_pairs, orders_of
from onnxq.quant.rounding import output_error, round_to_outputs
from onnxq.quant.statistics import CurvedGram, Gram
from onnxq.quant.statistics.gram import MOST_CHANNELS
from onnxq.rewrite.rounded import read_rounded

Rounding = Callable[[NDArray[np.float32], NDArray[np.float32], Encoding], NDArray[np.float32]]
"""Returns values on the grid, of a weight, the products of its inputs, and the grid."""

METHODS: Mapping[str, Rounding] = {"adaround": learn_rounding, "gptq": round_to_outputs}


@dataclass(frozen=True)
class RoundWeights(Pass):
    """Round the encoded weight of each MatMul and Conv; run it right after the weights are encoded.

    Options:
        layers: Names of nodes, in which * stands for anything.
        method: ``gptq`` rounds the weights of one input after those of another, and lets those to come make
            up for the error. ``adaround`` learns for all weights at once which of the two neighbours each
            becomes: integers alone, and it takes many times as long.
        hessian: Weigh each row of what a MatMul reads by how much the loss cares for what becomes of it. An
            error then counts where it matters; what Convs read is not weighed.

    """

    name: ClassVar[str] = "round-weights"
    effect: ClassVar[Effect] = Effect.QUANTIZING
    numbers_only: ClassVar[bool] = True
    layers: tuple[str, ...] = ("*",)
    method: Literal["gptq", "adaround"] = "gptq"
    hessian: bool = False

    def needs(self, module: GraphModule) -> Iterable[Need]:
        """Ask for the products of what each MatMul reads; what Convs read is measured while it runs."""
        for layer in self._products(module):
            yield Need(name_of(layer.activation), frozenset({self._kind}), layer.input_axis)

    def foresees(self, module: GraphModule) -> Iterable[Need]:
        """Ask for those of every MatMul, as all may be encoded."""
        for layer in _matrices(self._named(module, "MatMul")):
            yield Need(name_of(layer.activation), frozenset({self._kind}), layer.input_axis)

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave a weight to rounding to nearest where that errs no more, or where it has several readers."""
        products, convs = list(self._products(module)), list(self._convolutions(module, ctx))
        grams = chain(self._measured(products, module), patch_grams(convs, module.clone(), ctx))
        layers = [*products, *convs]
        for done, (layer, gram) in enumerate(zip(layers, grams, strict=True), 1):
            self._round(layer, gram, module, ctx)
            ctx.progress("rounding weights", done, len(layers))

    def _measured(self, layers: Iterable[Layer], module: GraphModule) -> Iterator[NDArray[np.float32] | None]:
        """Yield the Gram matrix of what each MatMul reads; None where that never had an element."""
        for layer in layers:
            known = module.measured(layer.activation).get(self._kind, layer.input_axis)
            yield None if known is None else known.products

    def _round(
        self, layer: Layer, gram: NDArray[np.float32] | None, module: GraphModule, ctx: PassContext
    ) -> None:
        encoding = module.encoding_at(layer.node, 1)
        reason = _reason(layer, gram, module) or self._reason_of_method(encoding)
        if reason is not None or gram is None or encoding is None:
            ctx.skip(layer.node, reason or "its weight is not encoded")
            return
        matrix, grid = _as_matrix(layer, encoding)
        if gram.shape[-1] != len(matrix):
            ctx.skip(layer.node, "its input is a vector, of which no products are known")
            return
        orders, method = _orders(layer, matrix, grid, ctx), METHODS[self.method]
        shape = array_of(layer.weight).shape
        key = "rounded", self.method, content_of(matrix, gram), grid, len(orders), shape
        stored, found, nearest = ctx.memo.of(key, lambda: _rounded(method, matrix, gram, grid, orders))
        if found >= nearest:
            ctx.skip(layer.node, "rounding to nearest errs no more")
            return
        why = f"squared error of its output: {found / nearest:.2f} of what rounding to nearest causes"
        rounded = grid.dequantize(stored)
        shaped = rounded.T.reshape(shape) if is_standard(layer.node, "Conv") else rounded
        read_rounded(layer.node, 1, shaped, encoding, ctx.edit, why=why)

    def _reason_of_method(self, encoding: Encoding | None) -> str | None:
        if self.method != "adaround" or encoding is None or encoding.integers:
            return None
        return f"the values of {encoding.dtype} do not lie in even steps, as {self.method} needs"

    @property
    def _kind(self) -> type[Gram]:
        return CurvedGram if self.hessian else Gram

    def _products(self, module: GraphModule) -> Iterator[Layer]:
        return _matrices(self._encoded(module, "MatMul"))

    def _convolutions(self, module: GraphModule, ctx: PassContext) -> Iterator[Layer]:
        for layer in self._encoded(module, "Conv"):
            if patch_size(layer) > MOST_CHANNELS:
                ctx.skip(layer.node, f"each of its outputs reads more than {MOST_CHANNELS} numbers")
            else:
                yield layer

    def _encoded(self, module: GraphModule, op_type: str) -> Iterator[Layer]:
        for layer in self._named(module, op_type):
            if module.reads_encoded(layer.node, layer.weight):
                yield layer

    def _named(self, module: GraphModule, op_type: str) -> Iterator[Layer]:
        for layer in linear_layers(module) if self.layers else ():
            named = any(fnmatchcase(layer.node.name or "", pattern) for pattern in self.layers)
            if named and is_standard(layer.node, op_type):
                yield layer


def _matrices(layers: Iterable[Layer]) -> Iterator[Layer]:
    for layer in layers:
        weight = array_of(layer.weight)
        if weight.ndim == 2 and len(weight) <= MOST_CHANNELS:
            yield layer


def _as_matrix(layer: Layer, encoding: Encoding) -> tuple[NDArray[np.float32], Encoding]:
    """Return the weight as ``x @ weight`` has it, and its grid."""
    weight = array_of(layer.weight)
    if not is_standard(layer.node, "Conv"):
        return weight, encoding
    grid = encoding if encoding.axis is None else replace(encoding, axis=1)
    return weight.reshape(len(weight), -1).T, grid


def _orders(layer: Layer, matrix: NDArray[np.float32], grid: Encoding, ctx: PassContext) -> tuple[Order, ...]:
    """Return the orders in which pairs have to be exact; none where those of rounding to nearest are not."""
    if ctx.weight_limit(layer) is None or grid.limit is not None:
        return ()
    shape = array_of(layer.weight).shape
    orders = orders_of(shape[1:] if is_standard(layer.node, "Conv") else shape[:1])
    return orders if (largest_pairs(grid.quantize(matrix), orders) <= LARGEST_PAIR).all() else ()


def _rounded(
    method: Rounding,
    matrix: NDArray[np.float32],
    gram: NDArray[np.float32],
    grid: Encoding,
    orders: tuple[Order, ...],
) -> tuple[NDArray[Any], float, float]:
    """Return what is stored of rounded weights, the error of their outputs, and rounding to nearest's."""
    nearest = output_error(matrix, grid.restored(matrix), gram)
    stored = grid.quantize(method(matrix, gram, grid))
    if orders:
        stored = hold_pairs(stored, orders)
    return stored, output_error(matrix, grid.dequantize(stored), gram), nearest


def _reason(layer: Layer, gram: NDArray[np.float32] | None, module: GraphModule) -> str | None:
    """Return why the weight is left alone, or None."""
    if gram is None:
        return "its input never had an element"
    if not np.isfinite(gram).all():
        return "its input is infinite somewhere"
    own = module.encoding_at(layer.node, 1)
    for use in layer.weight.uses():
        if use.node is not layer.node and module.encoding_at(use.node, use.idx) in (None, own):
            return "others read its weight"
    return None
