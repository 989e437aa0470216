"""Which values quantized inference reads: what integer layers read and give, what lies between, or all."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from onnxq.analysis.chains import Link, links_between
from onnxq.analysis.layers import SELECTING, Layer, clamped, keeps_grid, layer_of, linear_layers
from onnxq.ir.module import LINEAR, GraphModule, constant_tensor, is_float, is_standard

MASKING = ("Add", "Where")
"""What puts an attention mask on the scores; on a grid, masked scores would come back within reach."""

PARAMETERS = {
    "Dropout": (1,),
    "DequantizeLinear": (1,),
    "QuantizeLinear": (1,),
    "Resize": (1, 2),
    "Upsample": (1,),
}
"""Inputs that are no activations but say what the operator does: ratios, scales, regions."""

ZERO_FROM_ZERO = SELECTING | {"Abs", "Dropout", "Expand", "Identity", "Neg", "Sqrt", "Tile"}
"""What computes 0 from 0."""

Readers = dict[ir.Value, list[ir.Node] | None]
"""Values in scope with those that read them quantized; None stands for all readers."""


def gemm_io(module: GraphModule, outputs: tuple[str, ...]) -> Readers:
    """Join the wishes of all encoded layers, value by value."""
    readers: Readers = {}
    for layer in _encoded_layers(module):
        wish = readers.setdefault(layer.activation, [])
        if wish is not None:
            wish.append(layer.node)
        if layer.node.op_type in outputs:
            readers[layer.clamped_output] = None
    return readers


def computed_products(module: GraphModule) -> dict[ir.Value, list[ir.Node]]:
    """Return what each product of two computed values reads, as that of queries and keys, and who."""
    readers: dict[ir.Value, list[ir.Node]] = {}
    for node in module.graph:
        factors = [value for value in node.inputs if value is not None and constant_tensor(value) is None]
        if is_standard(node, "MatMul") and len(factors) == 2 and all(map(is_float, factors)):
            for value in factors:
                readers.setdefault(value, []).append(node)
    return readers


def chain_links(module: GraphModule, readers: Readers) -> list[Link]:
    """Return the operators between encoded layers that run in integers, where ``readers`` are in scope."""
    made = {value for value, nodes in readers.items() if nodes is None}
    return links_between(module, made, {layer.activation for layer in _encoded_layers(module)})


def _encoded_layers(module: GraphModule) -> Iterator[Layer]:
    """Yield the layers that multiply integers."""
    for layer in linear_layers(module):
        encoding = module.encoding_at(layer.node, 1)
        if encoding is not None and encoding.block_size is None:
            yield layer  # what reads a weight in blocks multiplies floats


def residual_values(module: GraphModule, readers: Readers) -> Iterator[ir.Value]:
    """Yield what has to be encoded for the residual sums to run in integers.

    Such a sum adds the quantized output of a layer and another value that is quantized anyway, or that is
    moved from one that is. In float, it would cost two DequantizeLinear and a QuantizeLinear more.
    """
    encoded, outputs = set(readers), {value for value, nodes in readers.items() if nodes is None}
    for node in module.graph:
        if not is_standard(node, "Add"):
            continue
        total = clamped(node.outputs[0])
        paths = [_path_from(value, encoded) for value in node.inputs]
        if total.is_graph_output() or not all(paths) or outputs.isdisjoint(node.inputs):
            continue
        encoded.add(total)
        outputs.add(total)
        yield from (total, *paths[0], *paths[1])


def _path_from(value: ir.Value | None, encoded: set[ir.Value]) -> list[ir.Value]:
    """Return ``value`` and what it was moved from, back to an encoded value; empty if there is none."""
    path: list[ir.Value] = []
    while value is not None:
        path.append(value)
        if value in encoded:
            return path
        producer = value.producer()
        value = producer.inputs[0] if producer is not None and keeps_grid(producer) else None
    return []


def activations(module: GraphModule) -> Iterator[ir.Value]:
    """Yield every float32 value that is fed in or computed, and that somebody reads."""
    computed = (value for node in module.graph for value in node.outputs)
    for value in (*module.graph.inputs, *computed):
        read = value.uses() or value.is_graph_output()
        if (
            is_float(value)
            and read
            and not (_is_masked_score(value) or _is_fused(value) or _is_parameter(value))
        ):
            yield value


def divides(value: ir.Value) -> bool:
    """Tell whether a zero in ``value`` would become an infinity.

    What was measured does not say that it stays away from 0: other samples, or what is rounded before it, may
    bring it there, as the variance in a normalization.
    """
    for use in value.uses():
        if is_standard(use.node, "Log", "Reciprocal") or (is_standard(use.node, "Div") and use.idx == 1):
            return True
        if is_standard(use.node, *ZERO_FROM_ZERO) and use.idx == 0 and divides(use.node.outputs[0]):
            return True
    return False


def _is_parameter(value: ir.Value) -> bool:
    """Tell whether an operator is steered by ``value``."""
    return any(
        is_standard(use.node, *PARAMETERS) and use.idx in PARAMETERS[use.node.op_type] for use in value.uses()
    )


def _is_masked_score(value: ir.Value) -> bool:
    """Tell whether ``value`` is what Softmax reads after a mask was added.

    A mask is a huge negative number; on a grid that fits the scores it would saturate, and let masked
    positions in.
    """
    producer = value.producer()
    feeds_softmax = any(is_standard(reader, "Softmax") for reader in value.consumers())
    return feeds_softmax and producer is not None and is_standard(producer, *MASKING)


def _is_fused(value: ir.Value) -> bool:
    """Tell whether a Relu or Clip that follows will be quantized in the place of ``value``."""
    producer = value.producer()
    layer = layer_of(producer) if producer is not None and is_standard(producer, *LINEAR) else None
    return isinstance(layer, Layer) and layer.clamped_output is not value
