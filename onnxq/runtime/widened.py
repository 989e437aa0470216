"""Models of bfloat16 on the CPU, where ONNX Runtime has no kernels for it: run in float32 instead.

A result is compared with what its source would compute if it could; float32 rounds less than bfloat16 does.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir

from onnxq.ir.inference import infer_types
from onnxq.ir.module import GraphModule
from onnxq.rewrite.casting import has_subgraph
from onnxq.rewrite.edit import Editor
from onnxq.rewrite.widening import widen


def in_float32(model: Path | bytes | onnx.ModelProto) -> onnx.ModelProto | None:
    """Return a model of bfloat16 said in float32; None for any other, and where a node has a graph in it."""
    if isinstance(model, bytes):
        model = onnx.load_model_from_string(model)
    loaded = ir.load(model) if isinstance(model, Path) else ir.from_proto(model)
    module = GraphModule(infer_types(loaded))
    narrow = any(value.dtype == ir.DataType.BFLOAT16 for value in module.values())
    if not narrow or any(map(has_subgraph, module.graph)):
        return None
    widen(module, Editor(module))
    return ir.to_proto(module.model)
