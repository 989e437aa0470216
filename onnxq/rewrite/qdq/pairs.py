"""Encodings per tensor and per channel: a QuantizeLinear and a DequantizeLinear.

What is stored of a constant stands behind a DequantizeLinear alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxq.ir.external import MappedTensor
from onnxq.ir.module import name_of, tensor_of
from onnxq.ir.stored import StoredTensor
from onnxq.quant.encodings import Affine, Encoding, Float8, encoding_of
from onnxq.rewrite.builder import Builder
from onnxq.rewrite.edit import Editor
from onnxq.rewrite.qdq.base import Form, look_ups

Grid = tuple[ir.Value, ...]
"""The scale and the zero point of one encoding, as initializers; of a bias the scale alone."""


class Pairs(Form):
    """Integers and float8 with one scale, or one for each channel."""

    def takes(self, encoding: Encoding) -> bool:
        """Both families have the same operators."""
        return isinstance(encoding, Affine | Float8)

    def activation(self, value: ir.Value, encoding: Encoding, edit: Editor) -> ir.Value:
        """Insert the pair."""
        return pair(value, name_of(value), encoding, edit)

    def constant(self, value: ir.Value, encoding: Encoding, readers: Sequence[ir.Node], edit: Editor) -> None:
        """Store it once; each layer has a DequantizeLinear of its own."""
        gathers, layers = look_ups(value, readers)
        stored = stored_of(value, encoding, edit)
        grid = grid_of(value.name, encoding, edit) if layers else ()
        for layer in layers:
            restore(value, layer, stored, grid, encoding, edit)
        for gather in gathers:
            _restore_rows(gather, stored, encoding, edit)


def pair(value: ir.Value, name: str, encoding: Encoding, edit: Editor) -> ir.Value:
    """Quantize and restore a computed value; new values begin with ``name``.

    QuantizeLinear saturates where its type ends. Where the grid ends before, a Clip stands in front.
    """
    grid, axes = grid_of(name, encoding, edit), axes_of(encoding)
    op = edit.behind(value, why=f"encoded as {encoding.dtype}")
    held = value if encoding.limit is None else _held(value, name, encoding, op)
    quantized = op.QuantizeLinear(held, *grid, **axes, name=f"{name}_q")
    return op.DequantizeLinear(quantized, *grid, **axes, name=f"{name}_dq", like=value)


def _held(value: ir.Value, name: str, encoding: Encoding, op: Builder) -> ir.Value:
    """Clip to the grid of a whole tensor."""
    low, high = op.constant(f"{name}_low", encoding.low), op.constant(f"{name}_high", encoding.high)
    return op.Clip(value, low, high, name=f"{name}_held", like=value)


def stored_of(value: ir.Value, encoding: Encoding, edit: Editor) -> ir.Value:
    """Return what is stored of a constant, as an initializer."""
    weight, name, why = tensor_of(value), f"{value.name}_q", f"stored as {encoding.dtype}"
    if isinstance(weight, MappedTensor):
        return edit.tensor(name, StoredTensor(weight, encoding), why=why)
    return edit.constant(name, encoding.quantize(weight.numpy()), why=why)


def grid_of(name: str | None, encoding: Encoding, edit: Editor) -> Grid:
    """Leave the zero point of a bias to the operator's default: as many int32 as the bias has, all zero."""
    why = "scale and zero point"
    scale = edit.constant(f"{name}_scale", encoding.scale, why=why)
    if encoding.dtype == "int32" and not encoding.zero_point.any():
        return (scale,)
    return scale, edit.constant(f"{name}_zero_point", encoding.stored_zero, why=why)


def axes_of(encoding: Encoding) -> dict[str, int | None]:
    """Return the attributes of both operators that say which values share a scale."""
    return {"axis": encoding.axis, "block_size": encoding.block_size}


def restore(
    value: ir.Value, reader: ir.Node, stored: ir.Value, grid: Grid, encoding: Encoding, edit: Editor
) -> None:
    """Give ``reader`` a DequantizeLinear of its own: one that two layers share is not fused into either.

    What a body reads is restored outside of it, once for all of its runs.
    """
    why, name = "weight of its own reader", f"{value.name}_dq"
    inside = reader.graph is not edit.module.graph
    op = edit.behind(stored, why=why) if inside else edit.at(reader, why=why)
    restored = op.DequantizeLinear(stored, *grid, **axes_of(encoding), name=name, like=value)
    edit.reroute(value, restored, readers=[reader], why="reads the integers")


def _restore_rows(gather: ir.Node, stored: ir.Value, encoding: Encoding, edit: Editor) -> None:
    """Gather what is stored and dequantize it: by the largest scale, and by each row's factor to it.

    A DequantizeLinear with a scale for each column would cost four times as much (onnxruntime 1.31.1).
    """
    table, rows, why = gather.inputs[0], gather.outputs[0], "only the gathered rows become float"
    name = None if table is None else table.name
    largest = encoding_of(encoding.scale.max(), encoding.zero_point.max(), encoding.dtype)
    op, places = edit.at(gather, why=why), gather.inputs[1]
    chosen = op.Gather(stored, places, name=f"{rows.name}_q")
    restored = op.DequantizeLinear(chosen, *grid_of(name, largest, edit), name=f"{rows.name}_dq")
    if encoding.axis is not None:
        factors = op.constant(f"{name}_factors", (encoding.scale / largest.scale)[:, None])
        picked = op.Gather(factors, places, name=f"{rows.name}_factors")
        restored = op.Mul(restored, picked, name=f"{rows.name}_scaled")
    edit.replace(rows, restored, why=why)
    edit.remove(gather, why=why)
