"""The one reader of QuantizeLinear and DequantizeLinear: what is stored, and on which grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.ir.module import attribute, constant_of, input_of
from onnxq.quant.encodings import Encoding, encoding_of

DOMAINS = ("", "ai.onnx", "com.microsoft")
"""ONNX Runtime has both operators in a domain of its own too, for types that old operator sets lack."""


@dataclass(frozen=True)
class Quantized:
    """Stored numbers and their grid, as a node makes or reads them.

    Args:
        node: The QuantizeLinear or DequantizeLinear.
        stored: The integers, or numbers in float8.
        scale: Its scale, constant or computed.
        zero_point: Its zero point, if it has one.

    """

    node: ir.Node
    stored: ir.Value
    scale: ir.Value
    zero_point: ir.Value | None

    @property
    def axis(self) -> int:
        """The channel axis, or the one that is cut into blocks, if there is more than one scale."""
        return int(attribute(self.node, "axis", 1))

    @property
    def block_size(self) -> int | None:
        """How many neighbours along the axis share a scale."""
        return int(attribute(self.node, "block_size", 0)) or None

    @property
    def dtype(self) -> str:
        """The type of what is stored: the zero point's, or else its own, or uint8, as ONNX says."""
        declared = attribute(self.node, "output_dtype", 0) if self.node.op_type == "QuantizeLinear" else 0
        known = (
            None if self.zero_point is None else self.zero_point.dtype,
            ir.DataType(declared) if declared else self.stored.dtype,
        )
        return next((dtype.name.lower() for dtype in known if dtype is not None), "uint8")

    @property
    def encoding(self) -> Encoding | None:
        """The encoding; None where it is computed at run time, or is nobody's grid, as a scale of 0."""
        scale, zero_point = constant_of(self.scale), constant_of(self.zero_point)
        if scale is None or (zero_point is None) != (self.zero_point is None):
            return None
        try:
            return self.encoding_with(scale, zero_point)
        except ValueError:
            return None

    def encoding_with(self, scale: NDArray[Any], zero_point: NDArray[Any] | None) -> Encoding:
        """Return the encoding that the node has with these numbers.

        Raises:
            ValueError: They are nobody's grid.

        """
        zeros = scale * 0 if zero_point is None else zero_point
        if scale.size == 1 and self.block_size is None:
            return encoding_of(scale.reshape(()), zeros.reshape(()), self.dtype)
        return encoding_of(scale, zeros, self.dtype, self.axis, self.block_size)


def read_quantize(node: ir.Node | None) -> Quantized | None:
    """Return what a QuantizeLinear makes; None for any other node."""
    if node is None or not _is(node, "QuantizeLinear"):
        return None
    return _quantized(node, node.outputs[0])


def read_dequantize(node: ir.Node | None) -> Quantized | None:
    """Return what a DequantizeLinear reads; None for any other node."""
    if node is None or not _is(node, "DequantizeLinear"):
        return None
    return _quantized(node, input_of(node, 0))


def dequantized(value: ir.Value | None) -> Quantized | None:
    """Return what ``value`` is dequantized from; None where no DequantizeLinear makes it."""
    return None if value is None else read_dequantize(value.producer())


def _is(node: ir.Node, op_type: str) -> bool:
    return node.op_type == op_type and node.domain in DOMAINS


def _quantized(node: ir.Node, stored: ir.Value | None) -> Quantized | None:
    scale = input_of(node, 1)
    return None if stored is None or scale is None else Quantized(node, stored, scale, input_of(node, 2))
