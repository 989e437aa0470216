"""What a form is: how the encodings of a family are written into a graph as nodes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import onnx_ir as ir

from onnxq.ir.module import is_standard
from onnxq.quant.encodings import Encoding
from onnxq.rewrite.edit import Editor


class Form(ABC):
    """The nodes of a family. Its stored integers and scales are read back by ``onnxq.analysis.quantized``."""

    @abstractmethod
    def takes(self, encoding: Encoding) -> bool:
        """Tell whether the encoding is of this form."""

    @abstractmethod
    def activation(self, value: ir.Value, encoding: Encoding, edit: Editor) -> ir.Value:
        """Quantize and restore ``value`` behind the node that computes it, and return what is restored."""

    @abstractmethod
    def constant(self, value: ir.Value, encoding: Encoding, readers: Sequence[ir.Node], edit: Editor) -> None:
        """Store a constant, and let each of ``readers`` read what is restored of it.

        A Gather takes rows of what is stored, and only those are restored.
        """


def look_ups(value: ir.Value, readers: Sequence[ir.Node]) -> tuple[list[ir.Node], list[ir.Node]]:
    """Return the readers that take rows of ``value`` as a table, and all others."""
    gathers = [node for node in readers if is_standard(node, "Gather") and node.inputs[0] is value]
    return gathers, [node for node in readers if node not in gathers]
