"""Switches: let each reader of an encoded value read the value, or what its encoding makes of it.

So one model runs in any mixture: nothing quantized, everything, one tensor alone, all but one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxq.ir.edit import Editor
from onnxq.ir.module import GraphModule, attribute, constant_of, is_standard, name_of
from onnxq.quant.encoding import DTYPES, Encoding

SWITCHES = "onnxq_switches"
"""The added input: one boolean for each encoded value and reader."""

WHY = "one of the two is read"


@dataclass(frozen=True)
class Edge:
    """An encoded value and one of its readers.

    Args:
        value: The value's name.
        reader: The name of a node; None for the model's output.
        constant: Whether the value is a constant.
        dtype: What it is quantized to.

    """

    value: str
    reader: str | None
    constant: bool
    dtype: str


def insert_switches(module: GraphModule) -> list[Edge]:
    """Insert one switch for each edge, and return the edges in the order of the input ``SWITCHES``.

    Where a switch is on, the reader reads quantized and restored values, in float. No decision is left.
    """
    encoded, edit = list(_encoded(module)), Editor(module)
    count = sum(len(readers) for _, _, readers in encoded)
    switches = ir.Value(name=SWITCHES, type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([count]))
    module.graph.inputs.append(switches)
    edges: list[Edge] = []
    for value, encoding, readers in encoded:
        name, constant = name_of(value), constant_of(value) is not None
        restored = _restored(value, encoding, edit)
        for reader in readers:
            place = edit.constant(f"{name}_place", np.array(len(edges), np.int64), why=WHY)
            switch = edit.insert("Gather", [switches, place], f"{name}_switch", why=WHY)
            _choose(value, restored, reader, switch, edit)
            edges.append(Edge(name, None if reader is None else reader.name, constant, encoding.dtype))
    module.decisions.clear()
    return edges


def _encoded(module: GraphModule) -> Iterator[tuple[ir.Value, Encoding, list[ir.Node | None]]]:
    """Yield each encoded value with its encoding and readers; None stands for the model's output.

    Constants come last, as rows that are gathered from them may be encoded too.
    """
    values = [value for value in module.values() if name_of(value) in module.decisions]
    for value in sorted(values, key=lambda value: constant_of(value) is not None):
        decision = module.decisions[name_of(value)]
        readers: list[ir.Node | None] = [node for node in value.consumers() if decision.read_by(node)]
        if decision.readers is None and value.is_graph_output() and value.producer() is not None:
            readers.append(None)
        yield value, decision.encoding, readers


def _restored(value: ir.Value, encoding: Encoding, edit: Editor) -> ir.Value:
    """Return what the encoding makes of ``value``."""
    array = constant_of(value)
    if array is not None:
        return edit.constant(f"{value.name}_dq", encoding.dequantize(encoding.quantize(array)), why=WHY)
    zero_point = encoding.zero_point.astype(DTYPES[encoding.dtype])
    grid = [
        edit.constant(f"{value.name}_scale", encoding.scale, why=WHY),
        edit.constant(f"{value.name}_zero_point", zero_point, why=WHY),
    ]
    axis = {} if encoding.axis is None else {"axis": encoding.axis}
    place = value.producer()
    quantized = edit.insert(
        "QuantizeLinear", [value, *grid], f"{value.name}_q", after=place, attributes=axis, why=WHY
    )
    after = quantized.producer()
    return edit.insert(
        "DequantizeLinear", [quantized, *grid], f"{value.name}_dq", after=after, attributes=axis, why=WHY
    )


def _choose(
    value: ir.Value, restored: ir.Value, reader: ir.Node | None, switch: ir.Value, edit: Editor
) -> None:
    """Let ``reader`` read ``restored`` where the switch is on; rows of a table are chosen once gathered."""
    if reader is None:
        edit.reroute_output(value, _where(switch, restored, value, edit), why=WHY)
    elif is_standard(reader, "Gather") and constant_of(value) is not None and reader.graph is value.graph:
        rows, axis = reader.outputs[0], {"axis": attribute(reader, "axis", 0)}
        other = edit.insert(
            "Gather", [restored, reader.inputs[1]], f"{rows.name}_dq", after=reader, attributes=axis, why=WHY
        )
        edit.reroute(rows, _where(switch, other, rows, edit), why=WHY)
    else:
        edit.reroute(value, _where(switch, restored, value, edit), readers=[reader], why=WHY)


def _where(switch: ir.Value, on: ir.Value, off: ir.Value, edit: Editor) -> ir.Value:
    return edit.insert(
        "Where",
        [switch, on, off],
        f"{off.name}_chosen",
        after=on.producer() or switch.producer(),
        dtype=off.dtype,
        shape=off.shape,
        why=WHY,
    )
