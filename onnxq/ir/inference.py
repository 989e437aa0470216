"""Types and shapes of all values, as far as onnx infers them."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from onnxq.ir.module import is_standard, name_of

SEQUENCES = (
    "SequenceConstruct",
    "SequenceEmpty",
    "SequenceErase",
    "SequenceInsert",
    "SequenceMap",
    "SplitToSequence",
)
ANY_TYPE = ("Identity", "If", "Loop", "Optional", "OptionalGetElement", "Scan")
"""What they pass on may be a sequence."""


def infer_types(model: ir.Model) -> ir.Model:
    """Infer in place, and return the model; what it states itself stays.

    Values of subgraphs get names that nobody else in the model has: onnx keeps what it knows of shapes in
    one table for all graphs, so that one branch would get the shapes of another. What onnx_ir 1.1 takes for
    tensors in a model with sequences, where it is none, is forgotten again.
    """
    _name_apart(model)
    nodes = list(model.graph.all_nodes())
    doubtful = [node for node in nodes if is_standard(node, *SEQUENCES, *ANY_TYPE)]
    unknown = [value for node in doubtful for value in node.outputs if value.type is None]
    ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    if any(is_standard(node, *SEQUENCES) for node in nodes):
        for value in unknown:
            value.type, value.shape = None, None
    return model


def _name_apart(model: ir.Model) -> None:
    """Number the namesakes among the values of different subgraphs."""
    values = [value for graph in model.graphs() for value in _made_in(graph) if value.name]
    taken, seen, counts = set(map(name_of, values)), set[str](), Counter[str]()
    for value in values:
        name = base = name_of(value)
        if base in seen:
            while name in taken:
                counts[base] += 1
                name = f"{base}_{counts[base]}"
            value.name = name
        taken.add(name)
        seen.add(base)


def _made_in(graph: ir.Graph) -> list[ir.Value]:
    inner = [value for node in graph for value in node.outputs]
    return list(dict.fromkeys((*graph.inputs, *graph.initializers.values(), *inner)))
