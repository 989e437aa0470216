"""Find the type and shape of every value, as far as they are known before a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from onnxq.ir.module import GraphModule, is_standard
from onnxq.passmanager.base import Effect, Pass, PassContext

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


@dataclass(frozen=True)
class InferShapes(Pass):
    """Run onnx's shape inference; types and shapes that the model states itself stay."""

    name: ClassVar[str] = "infer-shapes"
    effect: ClassVar[Effect] = Effect.EXACT

    def run(self, module: GraphModule, ctx: PassContext) -> None:
        """Leave the work to onnx."""
        ctx.edit.apply(_infer, why="later passes ask for types and ranks")


def _infer(model: ir.Model) -> ir.Model:
    """Infer, and forget what onnx_ir 1.1 takes for tensors in a model with sequences, where it is none."""
    nodes = list(model.graph.all_nodes())
    doubtful = [node for node in nodes if is_standard(node, *SEQUENCES, *ANY_TYPE)]
    unknown = [value for node in doubtful for value in node.outputs if value.type is None]
    ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    if any(is_standard(node, *SEQUENCES) for node in nodes):
        for value in unknown:
            value.type, value.shape = None, None
    return model
