"""The law of passes whose effect is ROUNDING: the same nodes, on values of a narrower float type.

A bound for the whole network would be too wide to find a mistake, so each node is held to its own, at the
values that really reach it. Its result is compared with that of the node before the pass, in float64 and with
the constants of before: constants and result are rounded once, each by at most half an eps of its size and,
where it underflows, by half the smallest step. So the result may differ by an ``eps`` of what the node adds
up: of ``f(|x|, |w|, |b|)`` for a layer, of the largest value at the node for others.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxq.ir.module import LINEAR, GraphModule, constant_of, is_standard, name_of
from onnxq.ir.rounding import NARROW, spell_out_rounding
from onnxq.quant.narrow import NarrowFloat, narrow_float
from onnxq.rewrite.casting import has_subgraph
from onnxq.testing.running import Array, Feeds, assert_near, evaluate, run_model, run_node

SAFETY = 2.0
"""Sums inside a node are rounded to float32 too, in any order."""


def assert_rounded(before: GraphModule, after: GraphModule, feeds: Feeds) -> None:
    """Assert of each node that was there before, and computes a narrow type now, that it rounds once."""
    stored = {
        name: value.const_value.numpy()
        for name, value in after.graph.initializers.items()
        if value.const_value
    }
    spelled = GraphModule(spell_out_rounding(after.model))
    seen = {**stored, **feeds, **run_model(spelled, feeds, inner=True)}
    old_nodes = {node.name: node for node in before.graph}
    for node in after.graph:
        old, value = old_nodes.get(node.name), node.outputs[0]
        if value.dtype in NARROW and old is not None and not has_subgraph(node):
            _assert_node_rounded(old, node, seen, narrow_float(NARROW[value.dtype]))
        elif value.dtype in NARROW and is_standard(node, "Cast"):
            _assert_cast_rounded(node, seen, narrow_float(NARROW[value.dtype]))


def _assert_node_rounded(old: ir.Node, new: ir.Node, seen: Mapping[str, Array], kind: NarrowFloat) -> None:
    if old.domain not in ("", "ai.onnx"):
        return
    inputs = [
        _original(before, after, seen, kind)
        for before, after in zip(old.inputs, new.inputs, strict=True)
        if before is not None
    ]
    if is_standard(old, *LINEAR):
        exact = evaluate(old, inputs)
        sizes: Array | float = evaluate(old, [np.abs(array) for array in inputs], absolute=True)
    else:
        exact = run_node(old, inputs)
        sizes = max((float(np.abs(array).max()) for array in (*inputs, exact) if array.size), default=0.0)
    bound = SAFETY * kind.eps * (sizes + kind.smallest)
    assert_near(seen[name_of(new.outputs[0])], exact, bound, f"node {new.name!r}")


def _original(
    before: ir.Value, after: ir.Value | None, seen: Mapping[str, Array], kind: NarrowFloat
) -> Array:
    """Return the constant of before, or else what reached the node now; floats in float64.

    A constant beyond the narrow type's range is a mask, and counts as clipped.
    """
    constant = constant_of(before)
    array = seen[name_of(after)] if constant is None else constant
    if array.dtype.kind != "f":
        return array
    beyond = constant is not None and array.size and np.abs(array).max() > kind.largest
    return (kind.clipped(array) if beyond else array).astype(np.float64)


def _assert_cast_rounded(cast: ir.Node, seen: Mapping[str, Array], kind: NarrowFloat) -> None:
    wide = seen[name_of(cast.inputs[0])].astype(np.float64)
    bound = kind.eps * (np.abs(wide) + kind.smallest)
    assert_near(seen[name_of(cast.outputs[0])], wide, bound, f"node {cast.name!r}")
