"""A model in half precision, or in bfloat16, said in float32; inputs and outputs keep their types."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxq.ir.module import GraphModule
from onnxq.rewrite.casting import cast, drop_empty_cast
from onnxq.rewrite.edit import Editor
from onnxq.rewrite.shielding import shield_cast

FLOAT = ir.DataType.FLOAT
NARROW = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
SUFFIXES = {ir.DataType.FLOAT16: "f16", ir.DataType.BFLOAT16: "bf16"}
WHY = "the CPU computes in float32"
TYPES = ("dtype", "output_datatype", "output_dtype", "to")
"""Attributes that name the type of what an operator computes."""


def widen(module: GraphModule, edit: Editor) -> None:
    """Widen every narrow constant, cast and value of the main graph, none of whose nodes has a graph in it.

    Weights are widened exactly; sums are rounded less than before.
    """
    graph = module.graph
    computed = [(value, value.dtype) for value in graph.outputs if value.dtype in NARROW and value.producer()]
    for node in graph:
        _widen_node(node, edit)
    for value in list(graph.initializers.values()):
        _widen_constant(value, edit)
    given = [_cast_input(value, edit) for value in graph.inputs if value.dtype in NARROW]
    for value, dtype in computed:
        narrow = cast(value, dtype, SUFFIXES[dtype], edit, why=WHY)
        edit.reroute(value, narrow, readers=[None], why=WHY)
    for node in list(graph):
        drop_empty_cast(node, FLOAT, edit, why=WHY)
    for wide in given:
        shield_cast(wide, edit)


def _widen_node(node: ir.Node, edit: Editor) -> None:
    """Let the node compute float32, also where an attribute of it names the type."""
    for name, attr in node.attributes.items():
        if name in TYPES and attr.value in NARROW:
            edit.set_attribute(node, name, int(FLOAT), why=WHY)
        if attr.type == ir.AttributeType.TENSOR and attr.as_tensor().dtype in NARROW:
            wide = ir.tensor(attr.as_tensor().numpy().astype(np.float32))
            edit.set_attribute(node, name, wide, why=WHY)
    for value in node.outputs:
        if value.dtype in NARROW:
            edit.set_dtype(value, FLOAT, why=WHY)


def _widen_constant(value: ir.Value, edit: Editor) -> None:
    if value.dtype in NARROW and value.const_value is not None:
        wide = value.const_value.numpy().astype(np.float32)
        constant = edit.constant(f"{value.name}_f32", wide, why=WHY)
        edit.reroute(value, constant, readers=value.consumers(), why=WHY)


def _cast_input(value: ir.Value, edit: Editor) -> ir.Value:
    readers = list(value.consumers())
    wide = cast(value, FLOAT, "f32", edit, why=WHY)
    edit.reroute(value, wide, readers=readers, why=WHY)
    return wide
