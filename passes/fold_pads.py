"""Let a Conv or a pooling pad by itself.

Before: ``p = Pad(x, [0, 0, 1, 1, 0, 0, 1, 1]); y = Conv(p, w)``. After: ``y = Conv<pads = [1, 1, 1, 1]>(x,
w)``; the Pad is dead once all of its readers pad by themselves. An AveragePool goes on counting the zeros. A
MaxPool pads with what never wins, which is the same where no value lies below the zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.analysis.layers import clips_below_at_zero, keeps_grid
from onnxq.ir.module import GraphModule, attribute, constant_of, input_of, is_standard, rank_of
from onnxq.passmanager.base import Effect, Pass, PassContext

Pads = NDArray[np.int64]
"""Shape (2, axes): how much is put before each axis, and how much behind it."""

WINDOWED = ("AveragePool", "Conv", "MaxPool")
WHY = "it pads by itself"


@dataclass(frozen=True)
class FoldPads(Pass):
    """Fold a Pad with zeros of constant widths along the axes that its reader's window moves over."""

    name: ClassVar[str] = "fold-pads"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Ask each reader of each Pad for itself; where one stays, so does the Pad."""
        for pad in module.graph:
            if is_standard(pad, "Pad"):
                for reader in list(pad.outputs[0].consumers()):
                    if is_standard(reader, *WINDOWED) and reader.inputs[0] is pad.outputs[0]:
                        _visit(pad, reader, ctx)


def _visit(pad: ir.Node, reader: ir.Node, ctx: PassContext) -> None:
    pads = _pads(pad)
    reason = "its widths are computed at run time" if pads is None else _reason(pad, pads, reader)
    if reason is not None or pads is None:
        ctx.skip(reader, f"the Pad before it stays: {reason}")
        return
    ctx.edit.rewire(reader, 0, pad.inputs[0], why=WHY)
    ctx.edit.set_attribute(reader, "pads", _joined(pads, reader).ravel().tolist(), why=WHY)
    if "auto_pad" in reader.attributes:
        ctx.edit.set_attribute(reader, "auto_pad", "NOTSET", why=WHY)
    if is_standard(reader, "AveragePool"):
        ctx.edit.set_attribute(reader, "count_include_pad", 1, why=WHY)


def _pads(pad: ir.Node) -> Pads | None:
    """Return the widths along all axes of the input; None if they are not known."""
    widths, axes, rank = constant_of(input_of(pad, 1)), constant_of(input_of(pad, 3)), rank_of(pad.inputs[0])
    if widths is None or rank is None or (axes is None and input_of(pad, 3) is not None):
        return None
    pads = np.zeros((2, rank), np.int64)
    pads[:, slice(None) if axes is None else axes] = widths.reshape(2, -1)
    return pads


def _joined(pads: Pads, reader: ir.Node) -> Pads:
    """Return what the Pad and the reader pad along the reader's window; shape (2, axes of the window)."""
    own = attribute(reader, "pads", None)
    return pads[:, 2:] + (0 if own is None else np.array(own, np.int64).reshape(2, -1))


def _reason(pad: ir.Node, pads: Pads, reader: ir.Node) -> str | None:
    """Return why ``reader`` cannot pad by itself, or None."""
    if attribute(pad, "mode", "constant") != "constant" or not keeps_grid(pad):
        return "it does not fill with zeros"
    if pads[:, :2].any() or (pads < 0).any():
        return "it cuts, or pads other axes than those of the window"
    if attribute(reader, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return "the padding of its own depends on the size of its input"
    return None if is_standard(reader, "Conv") else _reason_of_pooling(pad, pads, reader)


def _reason_of_pooling(pad: ir.Node, pads: Pads, pool: ir.Node) -> str | None:
    if (_joined(pads, pool) >= attribute(pool, "kernel_shape", ())).any():
        return "a window would lie in the padding alone"
    if attribute(pool, "ceil_mode", 0) or any(step != 1 for step in attribute(pool, "dilations", ())):
        return "its windows are spread out or reach over the end"
    if is_standard(pool, "AveragePool"):
        counted = attribute(pool, "count_include_pad", 0) or not any(attribute(pool, "pads", ()))
        return None if counted else "the padding of its own does not count"
    if len(pool.outputs) > 1:
        return "where its largest values lie is asked for too"
    return None if _is_positive(pad.inputs[0]) else "values below zero may lie beside the zeros"


def _is_positive(value: ir.Value | None) -> bool:
    producer = None if value is None else value.producer()
    return producer is not None and (is_standard(producer, "Relu") or clips_below_at_zero(producer))
