"""What a graph computes if its values are rounded exactly where decisions say so: node by node, in float.

It shares nothing with the passes that write QuantizeLinear and DequantizeLinear: each node runs alone in ONNX
Runtime, and NumPy rounds what it reads. So it says what a compiled model has to compute.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxq.ir.knowledge import NamedDecision
from onnxq.quant.encodings import Encoding
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session

Values = dict[str, Any]
"""Arrays by name; sequences are lists, absent optional values None."""


@dataclass
class Reference:
    """Runs one graph node by node.

    Args:
        model: The graph, without quantization operators for the decisions.
        decisions: What is rounded, and for whom.
        feeds: The graph's inputs.

    """

    model: onnx.ModelProto
    decisions: Sequence[NamedDecision]
    feeds: Mapping[str, Any]
    values: Values = field(init=False)
    """Every value of the graph as its node computed it, before it is rounded."""

    def __post_init__(self) -> None:
        """Run all nodes in order."""
        weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in self.model.graph.initializer}
        absent = {value.name: None for value in self.model.graph.input}
        self.values = {**absent, **weights, **self.feeds}
        self._constants = frozenset(weights)
        for node in self.model.graph.node:
            self.values |= self._run(node)

    def read(self, name: str, node: onnx.NodeProto) -> Any:
        """Return a value as ``node`` reads it."""
        encoding = encoding_for(self.decisions, name, node.name)
        return self.values[name] if encoding is None else rounded(self.values[name], encoding)

    def _run(self, node: onnx.NodeProto) -> Values:
        names = dict.fromkeys(name for name in _names_read(node) if name in self.values)
        inputs = {name: self.read(name, node) for name in names}
        return run_alone(node, inputs, self.model, self._constants)


def encoding_for(decisions: Sequence[NamedDecision], value: str, reader: str | None) -> Encoding | None:
    """Return the encoding in which a node reads a value; None stands for the graph's output."""
    found = [one for one in decisions if one.value == value]
    own = [one.encoding for one in found if one.readers is not None and reader in one.readers]
    return next(iter([*own, *(one.encoding for one in found if one.readers is None)]), None)


def rounded(values: Any, encoding: Encoding) -> Any:
    """Return ``values`` on the grid of an encoding, in their own type."""
    return np.asarray(encoding.dequantize(encoding.quantize(values)), values.dtype)


def run_alone(
    node: onnx.NodeProto,
    inputs: Mapping[str, Any],
    model: onnx.ModelProto,
    constants: frozenset[str] = frozenset(),
) -> Values:
    """Return the outputs of one node of ``model``; inputs among ``constants`` are given as initializers."""
    fed = {name: value for name, value in inputs.items() if name not in constants}
    proto = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    proto.functions.extend(model.functions)
    proto.graph.name = "alone"
    proto.graph.node.append(node)
    proto.graph.input.extend(_declared(name, value, model) for name, value in fed.items())
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in node.output if name)
    proto.graph.initializer.extend(
        numpy_helper.from_array(inputs[name], name) for name in inputs if name in constants
    )
    session = open_session(proto, Run(threads=1), optimization="none")
    found = session.run({name: value for name, value in fed.items() if value is not None})
    return {
        name: np.asarray(value) if isinstance(value, np.generic) else value for name, value in found.items()
    }


def _declared(name: str, value: Any, model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """Declare an input by what it is; an empty sequence or an absent value as the model does."""
    if isinstance(value, np.ndarray):
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
    if isinstance(value, list) and value:
        dtype = helper.np_dtype_to_tensor_dtype(np.asarray(value[0]).dtype)
        return helper.make_tensor_sequence_value_info(name, dtype, None)
    known: Sequence[onnx.ValueInfoProto] = (*model.graph.input, *model.graph.value_info)
    empty = helper.make_tensor_sequence_value_info(name, onnx.TensorProto.FLOAT, None)
    return next((info for info in known if info.name == name), empty)


def _names_read(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names of the inputs, and of what subgraphs may read from outside."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            yield from (value.name for value in graph.output)
            for inner in graph.node:
                yield from _names_read(inner)
