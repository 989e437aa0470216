"""A weight that was rounded in another way than to the nearest."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.ir.module import name_of
from onnxq.quant.encodings import Encoding
from onnxq.rewrite.edit import Editor


def read_rounded(
    node: ir.Node, index: int, rounded: NDArray[Any], encoding: Encoding, edit: Editor, *, why: str
) -> None:
    """Let a node alone read rounded values in the place of a constant, under the same encoding."""
    weight = node.inputs[index]
    assert weight is not None
    constant = edit.constant(f"{name_of(weight)}_rounded", rounded, why=why)
    edit.forget(weight, readers=[node], why=why)
    edit.rewire(node, index, constant, why=why)
    edit.encode(constant, encoding, readers=[node], why=why)
