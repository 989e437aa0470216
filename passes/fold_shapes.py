"""Replace the entries of a shape that are known before a run by constants.

Before: ``s = Shape(x); d = Gather(s, 2)`` with ``x`` of shape (N, T, 384). After: ``d`` is the initializer
384. Constant folding then takes what depends on it, such as the factor of an attention's scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.ir.module import GraphModule, attribute, constant_of, input_of, is_standard
from onnxq.passmanager.base import Effect, Pass, PassContext

UNKNOWN = -1
"""Stands for an entry that only a run can tell."""


@dataclass(frozen=True)
class FoldShapes(Pass):
    """Fold Gather and Slice behind a Shape, where all that they take is known."""

    name: ClassVar[str] = "fold-shapes"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Go from the Shape to its readers; what they computed becomes dead, and later goes."""
        for node in list(module.graph):
            if is_standard(node, "Shape"):
                shape = _shape_of(node)
                for reader in list(node.outputs[0].consumers()) if shape is not None else []:
                    _fold(reader, node.outputs[0], shape, ctx)


def _shape_of(node: ir.Node) -> NDArray[np.int64] | None:
    """Return the node's output, with ``UNKNOWN`` for what is not known; None if not even the rank is."""
    value = node.inputs[0]
    if value is None or value.shape is None:
        return None
    sizes = [size if isinstance(size, int) else UNKNOWN for size in value.shape]
    return np.array(sizes[attribute(node, "start", 0) : attribute(node, "end", None)], np.int64)


def _fold(reader: ir.Node, shape: ir.Value, sizes: NDArray[np.int64] | None, ctx: PassContext) -> None:
    taken = None if sizes is None or reader.inputs[0] is not shape else _taken(reader, sizes)
    output = reader.outputs[0]
    if taken is None or (taken == UNKNOWN).any() or output.is_graph_output():
        return
    known = ctx.edit.constant(f"{output.name}_known", taken, why="known before a run")
    ctx.edit.reroute(output, known, why="known before a run")


def _taken(reader: ir.Node, sizes: NDArray[np.int64]) -> NDArray[Any] | None:
    """Return what the reader takes of the shape, or None if only a run can tell."""
    if is_standard(reader, "Gather"):
        indices = constant_of(input_of(reader, 1))
        inside = indices is not None and (indices >= -len(sizes)).all() and (indices < len(sizes)).all()
        return sizes[indices] if inside else None
    parts = [constant_of(value) for value in reader.inputs[1:]]
    if not is_standard(reader, "Slice") or not parts or any(part is None or part.size != 1 for part in parts):
        return None
    start, end, *rest = (int(part.reshape(())) for part in parts if part is not None)
    step = rest[1] if len(rest) > 1 else 1
    return sizes[start:end:step] if step else None
