"""Search the steps of what layers read and those of their weights in turn, for the smallest rise of the loss.

Before: ``encode x``, ``encode w`` for ``y = MatMul(x, w)``. After: the same with other steps. What counts is
the squared error of ``y`` on sampled rows, each element times its squared gradient. Layers that read a value
encoded alike are searched together.

Source: Yuan et al., 2022, arXiv:2111.12293 (PTQ4ViT), section 3.4; see ``onnxq.quant.alternating``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.analysis.layers import Layer, linear_layers
from onnxq.ir.knowledge import Decision
from onnxq.ir.module import GraphModule, array_of, is_standard, name_of, rank_of
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.quant.alternating import Product, alternated
from onnxq.quant.encodings import Affine
from onnxq.quant.facts import Need
from onnxq.quant.statistics import CurvedRows


@dataclass(frozen=True)
class SearchScales(Pass):
    """Refine decisions on inputs and weights of MatMul and Gemm; run it behind encode-activations.

    Options:
        rounds: How often both are searched.

    """

    name: ClassVar[str] = "search-scales"
    effect: ClassVar[Effect] = Effect.EXACT
    rounds: int = 3

    def needs(self, module: GraphModule) -> Iterable[Need]:
        """Ask for rows of what layers read and give, and how much the loss cares for them."""
        return _needs(layer for _, layers in _sites(module) for layer in layers)

    def foresees(self, module: GraphModule) -> Iterable[Need]:
        """Ask for those around every product, as all may be encoded."""
        return _needs(layer for layer in linear_layers(module) if _is_matrix(layer))

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave alone what has several kinds of readers, and weights whose steps keep products exact."""
        for decision, layers in _sites(module):
            reason = _reason(decision, layers, module, ctx)
            if reason is not None:
                for layer in layers:
                    ctx.skip(layer.node, reason)
                continue
            self._search(decision, layers, module, ctx)

    def _search(
        self, decision: Decision, layers: Sequence[Layer], module: GraphModule, ctx: PassContext
    ) -> None:
        rows, encoding = module.measured(decision.value).known(CurvedRows), decision.encoding
        assert isinstance(encoding, Affine)
        products = [_product(layer, rows.values, module) for layer in layers]
        before = [_encoding(layer, module) for layer in layers]
        best, found = alternated(products, before, encoding, self.rounds)
        why = f"the loss rises least: {float(best.scale / encoding.scale):.2f} of the step before"
        ctx.edit.encode(decision.value, best, readers=decision.readers, why=why)
        for layer, old, new in zip(layers, before, found, strict=True):
            axis = None if new.axis is None else layer.channel_axis
            share = float(np.mean(new.scale / old.scale))
            why = f"the loss rises least: {share:.2f} of the steps before, in the mean"
            ctx.edit.encode(layer.weight, replace(new, axis=axis), readers=[layer.node], why=why)


def _needs(layers: Iterable[Layer]) -> Iterator[Need]:
    for layer in layers:
        for value in (layer.activation, layer.output):
            yield Need(name_of(value), frozenset({CurvedRows}))


def _sites(module: GraphModule) -> Iterator[tuple[Decision, list[Layer]]]:
    """Yield each decision on what products with encoded matrices read, and these."""
    layers = {layer.node: layer for layer in linear_layers(module) if _is_encoded_matrix(layer, module)}
    for value in dict.fromkeys(layer.activation for layer in layers.values()):
        for decision in module.decisions(value):
            found = [layers[use.node] for use in decision.uses if use.idx == 0 and use.node in layers]
            if found:
                yield decision, found


def _is_encoded_matrix(layer: Layer, module: GraphModule) -> bool:
    encoding = module.encoding_at(layer.node, 1)
    return _is_matrix(layer) and isinstance(encoding, Affine) and encoding.block_size is None


def _is_matrix(layer: Layer) -> bool:
    return is_standard(layer.node, "Gemm", "MatMul") and rank_of(layer.weight) == 2


def _reason(decision: Decision, layers: Sequence[Layer], module: GraphModule, ctx: PassContext) -> str | None:
    """Return why the steps stay as they are, or None."""
    if not isinstance(decision.encoding, Affine) or decision.encoding.axis is not None:
        return "what it reads is in no even steps, or in several"
    if len(layers) < len(decision.uses) or decision.for_all:
        return "others read the value in the same steps"
    if any(ctx.weight_limit(layer) is not None for layer in layers):
        return "its steps keep products from saturating"
    rows = _rows(decision.value, module)
    if rows is None or any(not _fits(layer, rows, module) for layer in layers):
        return "no rows of what it reads and gives are known"
    return None


def _rows(value: ir.Value, module: GraphModule) -> CurvedRows | None:
    return module.measured(value).get(CurvedRows)


def _fits(layer: Layer, rows: CurvedRows, module: GraphModule) -> bool:
    """Tell whether the rows of the layer's output are known, and made of those of its input."""
    given = _rows(layer.output, module)
    return (
        given is not None and rows.channels == len(_matrix(layer)) and len(rows.values) == len(given.values)
    )


def _product(layer: Layer, rows: NDArray[np.float32], module: GraphModule) -> Product:
    return Product(rows, _matrix(layer), module.measured(layer.output).known(CurvedRows).squares)


def _encoding(layer: Layer, module: GraphModule) -> Affine:
    """Return the encoding of a layer's weight as a matrix whose columns are channels."""
    encoding = module.encoding_at(layer.node, 1)
    assert isinstance(encoding, Affine)
    return replace(encoding, axis=None if encoding.axis is None else 1)


def _matrix(layer: Layer) -> NDArray[np.float32]:
    weight = array_of(layer.weight)
    return weight if layer.channel_axis == 1 else weight.T
