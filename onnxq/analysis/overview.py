"""What is in a model, at a glance: operators, parameters, inputs and outputs, and encodings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import onnx_ir as ir

from onnxq.analysis.quantized import Quantized, read_dequantize, read_quantize
from onnxq.ir.external import tensors
from onnxq.ir.module import GraphModule, constant_of, input_of, name_of
from onnxq.shown import Shown


@dataclass(frozen=True)
class QuantizedValue:
    """One value that a QuantizeLinear or DequantizeLinear with constant parameters encodes.

    Args:
        name: The weight, or the value that is quantized.
        kind: ``weight`` or ``activation``.
        dtype: The integer type.
        axis: The channel axis; None per tensor.
        scales: The smallest and the largest scale.
        zero_points: The smallest and the largest zero point.

    """

    name: str
    kind: str
    dtype: str
    axis: int | None
    scales: tuple[float, float]
    zero_points: tuple[int, int]


@dataclass(frozen=True)
class Overview(Shown):
    """A model in numbers.

    Args:
        producer: What wrote it.
        ir_version: The version of the file format.
        opsets: Operator set versions by domain; the standard domain is ``ai.onnx``.
        inputs: Names and types, weights listed as inputs left out.
        outputs: Names and types.
        operators: How often each operator stands in the graph, its subgraphs and functions.
        parameters: How many numbers its weights are.
        bytes_by_dtype: Bytes of the weights by element type, the largest first.
        quantized: The values with an encoding, in the order of the graph.
        metadata: The model's own notes.

    """

    producer: str
    ir_version: int
    opsets: dict[str, int]
    inputs: dict[str, str]
    outputs: dict[str, str]
    operators: dict[str, int]
    parameters: int
    bytes_by_dtype: dict[str, int]
    quantized: tuple[QuantizedValue, ...]
    metadata: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self)


def overview(module: GraphModule) -> Overview:
    """Return what is in the model."""
    model, graph = module.model, module.graph
    weights = list(tensors(model))
    sizes = Counter[str]()
    for tensor in weights:
        sizes[tensor.dtype.name.lower()] += tensor.nbytes
    return Overview(
        producer=" ".join(filter(None, (model.producer_name, model.producer_version))),
        ir_version=model.ir_version,
        opsets={domain or "ai.onnx": version for domain, version in sorted(model.opset_imports.items())},
        inputs={
            name_of(value): _type(value) for value in graph.inputs if value.name not in graph.initializers
        },
        outputs={name_of(value): _type(value) for value in graph.outputs},
        operators=dict(Counter(_operators(model)).most_common()),
        parameters=sum(tensor.size for tensor in weights),
        bytes_by_dtype=dict(sizes.most_common()),
        quantized=tuple(_quantized(graph)),
        metadata=dict(model.metadata_props),
    )


def _operators(model: ir.Model) -> Iterator[str]:
    """Yield the operators, those of other domains with their domain."""
    functions = model.functions.values()
    for node in (
        *model.graph.all_nodes(),
        *(node for function in functions for node in function.all_nodes()),
    ):
        yield node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def _type(value: ir.Value) -> str:
    """Return ``float[N,3,32,32]``, with ``?`` for what is unknown."""
    name = "?" if value.dtype is None else value.dtype.name.lower()
    shape = "..." if value.shape is None else ",".join(str(axis).replace("None", "?") for axis in value.shape)
    return f"{name}[{shape}]"


def _quantized(graph: ir.Graph) -> Iterator[QuantizedValue]:
    seen = set[str]()
    for node in graph:
        found = _encoded(node)
        if found is not None and found.name not in seen:
            seen.add(found.name)
            yield found


def _encoded(node: ir.Node) -> QuantizedValue | None:
    """Return what a Q encodes, or what a DQ or an integer MatMul reads as weight; None for all else."""
    made, read = read_quantize(node), read_dequantize(node)
    if made is not None:
        return _described(made, input_of(node, 0))
    if read is not None and read.stored.is_initializer():
        return _described(read, read.stored)
    if (node.domain, node.op_type) == ("com.microsoft", "MatMulIntegerToFloat"):
        weight, scale = input_of(node, 1), input_of(node, 3)
        if weight is not None and scale is not None:
            return _described(Quantized(node, weight, scale, input_of(node, 5)), weight)
    return None


def _described(found: Quantized, value: ir.Value | None) -> QuantizedValue | None:
    scale, zero_point = constant_of(found.scale), constant_of(found.zero_point)
    if scale is None:
        return None
    return QuantizedValue(
        name=name_of(value),
        kind="weight" if value is found.stored else "activation",
        dtype=found.dtype,
        axis=found.axis if scale.ndim else None,
        scales=(float(scale.min()), float(scale.max())),
        zero_points=(0, 0) if zero_point is None else (int(zero_point.min()), int(zero_point.max())),
    )
