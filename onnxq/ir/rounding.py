"""Narrow float types where there are no kernels for them: the same numbers, by casts that are spelled out."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from onnxq.ir.module import attribute, is_standard, name_of
from onnxq.ir.schema import CONTRIB, FLOAT8_PRODUCT

NARROW = {ir.DataType.FLOAT16: "float16", ir.DataType.BFLOAT16: "bfloat16"}


def spell_out_rounding(model: ir.Model) -> ir.Model:
    """Return a copy whose narrow nodes compute in float32 and round each result, as GPU kernels do.

    ONNX Runtime's CPU provider runs a float16 graph in float32 and leaves out the casts between, so that
    nothing is rounded and nothing overflows (onnxruntime 1.32.0). Casts of the model's own it keeps. Values
    keep their names and types; subgraphs are left as they are.
    """
    copy = spell_out_float8(model)
    for node in list(copy.graph):
        if not is_standard(node, "Cast") and any(_is_narrow(value) for value in node.inputs):
            _widen_inputs(node)
            _round_outputs(node)
    return copy


def spell_out_float8(model: ir.Model) -> ir.Model:
    """Return a copy with standard operators in the place of products with weights in float8.

    ONNX Runtime's CPU provider has no kernel for them. As its kernel on CUDA does for large batches, weights
    are dequantized and rounded to the type of the product.
    """
    copy = model.clone()
    for node in list(copy.graph):
        if node.domain == CONTRIB and node.op_type == FLOAT8_PRODUCT:
            _replace_product(node)
    return copy


def _replace_product(node: ir.Node) -> None:
    values, scale, output = node.inputs[1], node.inputs[2], node.outputs[0]
    assert output.dtype is not None
    axis = {"axis": 1, "block_size": attribute(node, "block_size", 128)}
    restored = _node_before(node, "DequantizeLinear", [values, scale], axis, "restored", ir.DataType.FLOAT)
    turned = _node_before(node, "Transpose", [restored], {"perm": [1, 0]}, "turned", ir.DataType.FLOAT)
    weight = _node_before(node, "Cast", [turned], {"to": int(output.dtype)}, "weight", output.dtype)
    product = ir.Node("", "MatMul", [node.inputs[0], weight], outputs=[_like(output)], name=node.name)
    graph = _graph_of(node)
    graph.insert_before(node, product)
    name, (new,) = output.name, product.outputs
    for use in list(output.uses()):
        use.node.replace_input_with(use.idx, new)
    graph.outputs[:] = [new if value is output else value for value in graph.outputs]
    graph.remove(node, safe=True)
    new.name = name


def _like(value: ir.Value) -> ir.Value:
    return ir.Value(name=f"{value.name}_plain", type=value.type, shape=value.shape)


def _node_before(
    node: ir.Node,
    op_type: str,
    inputs: list[ir.Value | None],
    attributes: dict[str, Any],
    part: str,
    dtype: ir.DataType,
) -> ir.Value:
    result = ir.Value(name=f"{node.outputs[0].name}_{part}", type=ir.TensorType(dtype))
    made = ir.Node(
        "",
        op_type,
        inputs,
        ir.convenience.convert_attributes(attributes),
        outputs=[result],
        name=f"{result.name}_node",
    )
    _graph_of(node).insert_before(node, made)
    return result


def _is_narrow(value: ir.Value | None) -> bool:
    return value is not None and value.dtype in NARROW


def _widen_inputs(node: ir.Node) -> None:
    for index, value in enumerate(node.inputs):
        if value is not None and value.dtype in NARROW:
            name = f"{name_of(value)}_for_{name_of(node.outputs[0])}_{index}"
            node.replace_input_with(index, _cast(value, ir.DataType.FLOAT, name))
            _graph_of(node).insert_before(node, _producer(node.inputs[index]))


def _round_outputs(node: ir.Node) -> None:
    for value in node.outputs:
        dtype = value.dtype
        if dtype not in NARROW:
            continue
        name, graph = name_of(value), _graph_of(node)
        value.name, value.type = f"{name}_exact", ir.TensorType(ir.DataType.FLOAT)
        uses = list(value.uses())
        rounded = _cast(value, dtype, name)
        graph.insert_after(node, _producer(rounded))
        for use in uses:
            use.node.replace_input_with(use.idx, rounded)
        graph.outputs[:] = [rounded if output is value else output for output in graph.outputs]


def _cast(value: ir.Value, dtype: ir.DataType, name: str) -> ir.Value:
    result = ir.Value(name=name, type=ir.TensorType(dtype), shape=value.shape)
    attributes = ir.convenience.convert_attributes({"to": int(dtype)})
    ir.Node("", "Cast", [value], attributes, outputs=[result], name=f"{name}_cast")
    return result


def _graph_of(node: ir.Node) -> ir.Graph:
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    return graph


def _producer(value: ir.Value | None) -> ir.Node:
    node = None if value is None else value.producer()
    assert node is not None
    return node
