"""Running models and single nodes, for the laws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from onnxq.ir.module import GraphModule, name_of
from onnxq.ir.rounding import spell_out_float8
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session

Array = NDArray[Any]
Feeds = Mapping[str, Array]


def run_model(module: GraphModule, feeds: Feeds, *, inner: bool = False) -> dict[str, Array]:
    """Return the outputs by name, and with ``inner`` all values of the main graph's nodes.

    ONNX Runtime runs the graph as it stands, with none of its optimisations; products with weights in float8
    by standard operators.
    """
    names = [name_of(v) for node in module.graph for v in node.outputs if v.name] if inner else []
    proto = ir.to_proto(spell_out_float8(module.model))
    session = open_session(proto, Run(threads=1), extra_outputs=names, optimization="none")
    return session.run(feeds)


def evaluate(node: ir.Node, inputs: Sequence[Array], *, absolute: bool = False) -> Array:
    """Evaluate one node in float64; with ``absolute``, its constant factors by their magnitude."""
    proto, groups = _alone(node), 1
    for attribute in proto.attribute:
        if absolute and attribute.name in ("alpha", "beta"):
            attribute.f = abs(attribute.f)
        if proto.op_type == "ConvTranspose" and attribute.name == "group":
            groups, attribute.i = attribute.i, 1
    if groups == 1:
        return _reference(proto, inputs, _opsets(node))
    # onnx 1.23's reference cannot run several groups of a ConvTranspose, but one at a time
    axes = (1, 0, 0)
    parts = zip(*(np.split(x, groups, axis) for x, axis in zip(inputs, axes, strict=False)), strict=True)
    return np.concatenate([_reference(proto, part, _opsets(node)) for part in parts], axis=1)


def _reference(proto: onnx.NodeProto, inputs: Sequence[Array], opsets: dict[str, int]) -> Array:
    feeds = {f"input_{index}": array for index, array in enumerate(inputs)}
    (result,) = ReferenceEvaluator(proto, opsets=opsets).run(None, feeds)
    return np.asarray(result, np.float64)


def run_node(node: ir.Node, inputs: Sequence[Array]) -> Array:
    """Return the first output of one node, run in ONNX Runtime on float32."""
    proto = _alone(node)
    feeds = {
        f"input_{index}": array.astype(np.float32) if array.dtype.kind == "f" else array
        for index, array in enumerate(inputs)
    }
    values = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )
        for name, array in feeds.items()
    ]
    graph = onnx.helper.make_graph([proto], "node", values, [onnx.ValueInfoProto(name=proto.output[0])])
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in _opsets(node).items()]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)
    result: Array = open_session(model, Run(threads=1), optimization="none").run(feeds)[proto.output[0]]
    return result


def _alone(node: ir.Node) -> onnx.NodeProto:
    """Return the node with inputs named by their places: the evaluators want a name once."""
    proto = ir.to_proto(node)
    names = [name for name in proto.input if name]
    places = iter(f"input_{index}" for index in range(len(names)))
    proto.input[:] = [next(places) if name else "" for name in proto.input]
    return proto


def _opsets(node: ir.Node) -> dict[str, int]:
    return {"": node.graph.opset_imports[""] if node.graph else onnx.defs.onnx_opset_version()}


def is_floats(value: Any) -> bool:
    """Tell whether a value is an array of floats; others are of integers or texts, sequences, or absent."""
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def arrays_in(value: Any) -> list[Array]:
    """Return a value that is an array, or the arrays in a sequence; nothing for what is absent."""
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, np.ndarray)]


def assert_near(new: Any, old: Any, bound: Array | float, where: str) -> None:
    """Assert that two arrays have one shape and differ by at most ``bound``; integers not at all.

    Sequences are compared item by item; None stands for an absent value.
    """
    if isinstance(old, list) or old is None:
        assert type(new) is type(old), f"{where}: another kind of value"
        for one, other in zip(new or (), old or (), strict=True):
            assert_near(one, other, bound, where)
        return
    assert new.shape == old.shape, f"{where}: shape {old.shape} became {new.shape}"
    if new.dtype.kind != "f":
        np.testing.assert_array_equal(new, old, where)
        return
    error = np.abs(new.astype(np.float64) - old.astype(np.float64))
    excess = float((error - bound).max(initial=-np.inf))
    assert excess <= 0, f"{where}: differs by {error.max()}, {excess} more than its bound"
