"""Give what a Softmax or Gelu feeds into a product a twin grid: fine steps near zero, coarse ones beyond.

Before: ``encode p`` with one step, where ``p = Softmax(s); y = MatMul(p, v)``. After: ``encode p`` with two.
For a Softmax the coarse grid ends at 1 and the border is searched; for a Gelu the fine grid covers what is
below zero and the coarse step is searched. What counts is the squared error of ``y`` on sampled rows, and
only what shrinks enough is encoded so: the model multiplies twice (``split-twins``).

Source: Yuan et al., 2022, arXiv:2111.12293 (PTQ4ViT), section 3.2; see ``onnxq.quant.encodings.twin``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxq.ir.module import GraphModule, constant_of, is_standard, name_of
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.quant.encodings import Affine, Encoding, Twin
from onnxq.quant.facts import Need
from onnxq.quant.statistics import Range, Rows
from onnxq.quant.twins import Cost, best_twin, code_bits, with_sampled, with_weight

END_OF_SOFTMAX = 1.0


@dataclass(frozen=True)
class EncodeTwins(Pass):
    """Refine decisions on first factors of MatMuls; run it right behind encode-activations.

    Options:
        operators: Whose outputs get them: ``Softmax``, ``Gelu``, or both joined by +.
        gain: The least factor by which the squared error of the product has to shrink; 0 takes all.

    """

    name: ClassVar[str] = "encode-twins"
    effect: ClassVar[Effect] = Effect.EXACT
    operators: tuple[str, ...] = ("Softmax",)
    gain: float = 2.0

    def needs(self, module: GraphModule) -> Iterable[Need]:
        """Ask for rows of both factors."""
        for node in self._products(module):
            for value in node.inputs:
                if value is not None and constant_of(value) is None:
                    yield Need(name_of(value), frozenset({Range, Rows}))

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Say of each product by how much its error shrinks."""
        for node in self._products(module):
            value, old = node.inputs[0], module.encoding_at(node, 0)
            cost = _cost(node, module)
            if value is None or not isinstance(old, Affine) or old.axis is not None:
                ctx.skip(node, "its first factor is not encoded, or has several scales")
            elif cost is None:
                ctx.skip(node, "no rows of its factors are known")
            else:
                self._refine(node, value, old, cost, module, ctx)

    def _products(self, module: GraphModule) -> Iterator[ir.Node]:
        for node in module.graph:
            value = node.inputs[0] if is_standard(node, "MatMul") else None
            producer = None if value is None else value.producer()
            if producer is not None and is_standard(producer, *self.operators):
                yield node

    def _refine(
        self, node: ir.Node, value: ir.Value, old: Encoding, cost: Cost, module: GraphModule, ctx: PassContext
    ) -> None:
        twin = _best(value, code_bits(old), cost, module)
        share = cost(twin) / max(cost(old), np.finfo(np.float64).tiny)
        if share * self.gain > 1:
            ctx.skip(node, f"the squared error of its output would be {share:.2f} of what it is")
            return
        why = f"squared error of its product: {share:.2f} of what one step causes"
        ctx.edit.encode(value, twin, readers=[node], why=why)


def _best(value: ir.Value, bits: int, cost: Cost, module: GraphModule) -> Twin:
    producer, facts = value.producer(), module.measured(value)
    if producer is not None and is_standard(producer, "Softmax"):
        return best_twin(0.0, END_OF_SOFTMAX, bits, cost)
    return best_twin(facts.low, facts.high, bits, cost)


def _cost(node: ir.Node, module: GraphModule) -> Cost | None:
    """Return the error of the product by the grid of its first factor, on rows that calibration sampled."""
    first, second = node.inputs
    rows = None if first is None else module.measured(first).get(Rows)
    if rows is None or second is None:
        return None
    weight = constant_of(second)
    if weight is not None and weight.ndim == 2:
        return with_weight(rows.values, weight)
    others = module.measured(second).get(Rows)
    return None if others is None else with_sampled(rows.values, others.values)
