"""Realise every decision as QuantizeLinear and DequantizeLinear.

Activation, before: ``y = MatMul(x, w)``, ``encode x``. After: ``x_q = QuantizeLinear(x); x_dq =
DequantizeLinear(x_q); y = MatMul(x_dq, w)``. Weight: the initializer becomes integers behind a
DequantizeLinear. Embedding table: the integers are gathered, then dequantized, so that only the rows in use
become float; a table in blocks through onnxruntime's GatherBlockQuantized. What ONNX Runtime would get wrong
between such pairs is read through a Sum: see ``onnxq.passmanager.shielding``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from onnxq.ir.knowledge import Decision
from onnxq.ir.module import GraphModule, array_of, constant_of, is_standard
from onnxq.passmanager.base import Effect, Pass, PassContext
from onnxq.passmanager.shielding import shield_layers, shield_narrow_weights
from onnxq.quant.encodings import Encoding, encoding_of
from onnxq.quant.packing import pack, unsigned

Grid = tuple[ir.Value, ...]
"""The scale and the zero point of one encoding, as initializers; of a bias the scale alone."""


@dataclass(frozen=True)
class InsertQdq(Pass):
    """Insert the pairs in the order of the graph; no decision is left."""

    name: ClassVar[str] = "insert-qdq"
    effect: ClassVar[Effect] = Effect.QUANTIZING
    realises: ClassVar[bool] = True

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Constants are quantized here and now, everything else at run time."""
        for value in list(module.graph.initializers.values()):
            _realise(value, ctx)
        for value in list(module.values()):
            _realise(value, ctx)
        shield_layers(module, ctx)
        shield_narrow_weights(module, ctx)


def _realise(value: ir.Value, ctx: PassContext) -> None:
    for decision in ctx.edit.realise(value):
        if constant_of(value) is not None:
            _realise_constant(decision, ctx)
        elif decision.uses or value.is_graph_output():
            _realise_activation(decision, ctx)


def _realise_activation(decision: Decision, ctx: PassContext) -> None:
    value = decision.value
    grid = _grid(value.name, decision.encoding, ctx)
    why, place = f"encoded as {decision.encoding.dtype}", value.producer()
    quantized = ctx.edit.insert(
        "QuantizeLinear",
        [value, *grid],
        f"{value.name}_q",
        after=place,
        attributes=_axis(decision.encoding),
        dtype=grid[1].dtype,
        shape=value.shape,
        why=why,
    )
    restored = ctx.edit.insert(
        "DequantizeLinear",
        [quantized, *grid],
        f"{value.name}_dq",
        after=quantized.producer(),
        attributes=_axis(decision.encoding),
        dtype=value.dtype,
        shape=value.shape,
        why=why,
    )
    if decision.for_all and value.is_graph_output() and place is not None:
        ctx.edit.reroute_output(value, restored, why=why)
    ctx.edit.reroute(value, restored, readers=decision.readers, why=why)


def _realise_constant(decision: Decision, ctx: PassContext) -> None:
    value, encoding = decision.value, decision.encoding
    gathers = [node for node in decision.readers if is_standard(node, "Gather") and node.inputs[0] is value]
    layers = [node for node in decision.readers if node not in gathers]
    if encoding.block_size is not None:
        _realise_blocks(value, encoding, layers, gathers, ctx)
        return
    integers = _integers(value, encoding, ctx)
    if layers:
        grid = _grid(value.name, encoding, ctx)
    for layer in layers:
        _dequantize_constant(value, layer, integers, grid, encoding, ctx)
    for gather in gathers:
        _dequantize_rows(gather, integers, encoding, ctx)


def _realise_blocks(
    value: ir.Value, encoding: Encoding, layers: list[ir.Node], gathers: list[ir.Node], ctx: PassContext
) -> None:
    """Give each layer integers and scales of its own: onnxruntime makes MatMulNBits of no others."""
    for layer in layers:
        integers, grid = _integers(value, encoding, ctx), _grid(value.name, encoding, ctx)
        _dequantize_constant(value, layer, integers, grid, encoding, ctx)
    if gathers:
        _gather_blocks(value, gathers, encoding, ctx)


def _integers(value: ir.Value, encoding: Encoding, ctx: PassContext) -> ir.Value:
    stored = encoding.quantize(array_of(value))
    return ctx.edit.constant(f"{value.name}_q", stored, why=f"stored as {encoding.dtype}")


def _dequantize_constant(
    value: ir.Value, reader: ir.Node, integers: ir.Value, grid: Grid, encoding: Encoding, ctx: PassContext
) -> None:
    """Give ``reader`` a DequantizeLinear of its own: one that two layers share is not fused into either."""
    restored = ctx.edit.insert(
        "DequantizeLinear",
        [integers, *grid],
        f"{value.name}_dq",
        before=reader,
        attributes=_axis(encoding),
        dtype=value.dtype,
        shape=value.shape,
        why="weight of its own reader",
    )
    ctx.edit.reroute(value, restored, readers=[reader], why="reads the integers")


def _dequantize_rows(gather: ir.Node, integers: ir.Value, encoding: Encoding, ctx: PassContext) -> None:
    """Gather integers and dequantize them: by the largest scale, and by each row's factor to it.

    A DequantizeLinear with a scale for each column would cost four times as much (onnxruntime 1.31.1).
    """
    table, rows, why = gather.inputs[0], gather.outputs[0], "only the gathered rows become float"
    name = None if table is None else table.name
    largest = encoding_of(encoding.scale.max(), encoding.zero_point.max(), encoding.dtype)

    def add(op_type: str, inputs: list[ir.Value | None], part: str, dtype: ir.DataType | None) -> ir.Value:
        name = f"{rows.name}_{part}"
        return ctx.edit.insert(op_type, inputs, name, before=gather, dtype=dtype, shape=rows.shape, why=why)

    chosen = add("Gather", [integers, gather.inputs[1]], "q", integers.dtype)
    restored = add("DequantizeLinear", [chosen, *_grid(name, largest, ctx)], "dq", rows.dtype)
    if encoding.axis is not None:
        column = (encoding.scale / largest.scale)[:, None]
        factors = ctx.edit.constant(f"{name}_factors", column, why=why)
        picked = ctx.edit.insert(
            "Gather",
            [factors, gather.inputs[1]],
            f"{rows.name}_factors",
            before=gather,
            dtype=rows.dtype,
            why=why,
        )
        restored = add("Mul", [restored, picked], "scaled", rows.dtype)
    ctx.edit.replace(rows, restored, why=why)
    ctx.edit.remove(gather, why=why)


def _gather_blocks(table: ir.Value, gathers: list[ir.Node], encoding: Encoding, ctx: PassContext) -> None:
    """Gather and dequantize in one: onnxruntime's operator reads several integers from each byte.

    It takes integers of type uint4 too, but eight times as slowly (onnxruntime 1.31.1).
    """
    why, bits = "only the gathered rows become float", 4 if encoding.dtype == "uint4" else 8
    stored = pack(unsigned(encoding.quantize(array_of(table)), bits), bits)
    integers = ctx.edit.constant(f"{table.name}_q", stored, why=why)
    scale = ctx.edit.constant(f"{table.name}_scale", encoding.scale, why=why)
    zero_points = pack(encoding.zero_point.astype(np.uint8), bits)
    zero_point = ctx.edit.constant(f"{table.name}_zero_point", zero_points, why=why)
    width = {"bits": bits, "block_size": encoding.block_size}
    for gather in gathers:
        rows = gather.outputs[0]
        restored = ctx.edit.insert(
            "GatherBlockQuantized",
            [integers, gather.inputs[1], scale, zero_point],
            f"{rows.name}_dq",
            before=gather,
            domain="com.microsoft",
            attributes={**width, "gather_axis": 0, "quantize_axis": 1},
            dtype=rows.dtype,
            shape=rows.shape,
            why=why,
        )
        ctx.edit.replace(rows, restored, why=why)
        ctx.edit.remove(gather, why=why)


def _grid(name: str | None, encoding: Encoding, ctx: PassContext) -> Grid:
    """Leave the zero point of a bias to the operator's default: as many int32 as the bias has, all zero."""
    why = "scale and zero point"
    scale = ctx.edit.constant(f"{name}_scale", encoding.scale, why=why)
    if encoding.dtype == "int32" and not encoding.zero_point.any():
        return (scale,)
    return scale, ctx.edit.constant(f"{name}_zero_point", encoding.stored_zero, why=why)


def _axis(encoding: Encoding) -> dict[str, int]:
    given = {"axis": encoding.axis, "block_size": encoding.block_size}
    return {name: value for name, value in given.items() if value is not None}
