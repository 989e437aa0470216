"""Writing a PyTorch program as an ONNX file that tells nothing of the machine that made it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx


def write_program(program: Any, path: Path) -> None:
    """Write what ``torch.onnx.export`` returned, checked, and without the exporter's notes."""
    assert program is not None
    model = _without_notes(program.model_proto)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _without_notes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove stack traces and doc strings: they name files of the machine that exported."""
    graph = model.graph
    values = [*graph.input, *graph.output, *graph.value_info, *graph.initializer]
    for item in [model, graph, *graph.node, *values]:
        item.ClearField("doc_string")
        item.ClearField("metadata_props")
    return model
