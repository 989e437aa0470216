"""How much attention of an export is fused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnxq.fragments import expand
from onnxq.ir.module import GraphModule
from onnxq.ir.store import load_model
from onnxq.passmanager.base import PassRecord
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.target import find_target

PIPELINE = expand("@tidy, @fuse, remove-dead")
"""What recipes for the CPU begin with."""


@dataclass(frozen=True)
class Attention:
    """How many cores are fused, how many softmaxes are left, and why."""

    fused: int
    left: int
    reasons: frozenset[str]

    @property
    def whole(self) -> bool:
        """Whether all of it is fused."""
        return self.fused > 0 and not self.left


def fused(path: Path) -> tuple[GraphModule, list[PassRecord]]:
    """Return the model at ``path`` with what can be fused, and what each pass did."""
    module = load_model(path)
    return module, PassManager(parse_pipeline(PIPELINE), find_target("cpu")).run(module)


def attention_of(path: Path) -> Attention:
    """Fuse what can be fused in the model at ``path``, and count."""
    module, records = fused(path)
    operators = [node.op_type for node in module.graph]
    reasons = {remark.reason for one in records if one.text == "fuse-attention" for remark in one.remarks}
    return Attention(operators.count("Attention"), operators.count("Softmax"), frozenset(reasons))
