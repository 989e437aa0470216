"""Which constants passes have changed to make up for quantization, and what they were."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.ir.module import GraphModule, constant_of
from onnxq.passmanager.base import Effect, Pass, PassRecord
from onnxq.passmanager.instruments import Instrument

Place = tuple[str, int]
"""The name of a node, and the number of its input."""


@dataclass
class Originals(Instrument):
    """Remembers the constants of nodes as they were before QUANTIZING passes changed them.

    A change counts once something is encoded: corrected biases, rounded weights. What such a pass does before
    that, as when it takes a clip away, makes another function, whether anything is quantized or not.

    Args:
        found: For each changed input of a node what it was; None if there was none.

    """

    found: dict[Place, NDArray[Any] | None] = field(default_factory=dict)
    _before: dict[Place, ir.Value] = field(default_factory=dict, init=False)
    _nodes: set[str] = field(default_factory=set, init=False)
    _decided: bool = field(default=False, init=False)

    def before(self, module: GraphModule, pass_: Pass, index: int) -> None:
        """Remember the constants, if the pass may change any."""
        watched = pass_.effect is Effect.QUANTIZING
        self._before = _constants(module) if watched else {}
        self._nodes = {node.name or "" for node in module.graph} if watched else set()
        self._decided = bool(module.decisions())

    def after(self, module: GraphModule, pass_: Pass, index: int, record: PassRecord) -> None:
        """Compare; where several passes change one constant, what the first of them found counts."""
        nodes = {node.name: node for node in module.graph if node.name in self._nodes}
        for (name, number), value in _constants(module).items():
            old = self._before.get((name, number))
            if name not in nodes or old is value:
                continue
            if self._decided or module.reads_encoded(nodes[name], value):
                self.found.setdefault((name, number), constant_of(old))


def _constants(module: GraphModule) -> dict[Place, ir.Value]:
    return {
        (node.name or "", number): value
        for node in module.graph
        for number, value in enumerate(node.inputs)
        if value is not None and constant_of(value) is not None
    }
