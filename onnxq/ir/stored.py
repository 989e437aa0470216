"""Weights that are quantized when somebody asks for their integers, and let go of again."""

from __future__ import annotations

from typing import IO, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnxq.ir.external import MappedTensor
from onnxq.quant.encodings import Encoding
from onnxq.quant.packing import pack


class StoredTensor(ir.LazyTensor):
    """What an encoding stores of a weight that lies in a file: computed anew each time it is asked for.

    Args:
        weight: The weight; it has axes.
        encoding: Its encoding.

    """

    def __init__(self, weight: MappedTensor, encoding: Encoding) -> None:
        """Compute nothing yet."""
        self.weight, self.encoding = weight, encoding
        dtype = ir.DataType.from_numpy(encoding.dtypes[encoding.dtype])
        super().__init__(self._computed, dtype, weight.shape)

    def _computed(self) -> ir.TensorProtocol:
        return ir.Tensor(self.encoding.quantize(self.weight.numpy()), dtype=self.dtype)

    def tofile(self, file: IO[bytes]) -> None:
        """Write it piece by piece, where rows of integers fill bytes."""
        weight = self.weight.numpy()
        if weight[0].size * self.encoding.bits % 8:
            file.write(self.tobytes())
            return
        for _, piece in self.encoding.quantized_pieces(weight):
            file.write(self._packed(piece))

    def _packed(self, piece: NDArray[Any]) -> bytes:
        """Return the bytes of some rows; onnx_ir 1.1 takes three times as long for those of 4 bits."""
        if self.encoding.bits in (4, 8):
            return pack(piece.view(np.uint8).ravel(), self.encoding.bits).tobytes()
        return ir.Tensor(piece, dtype=self.dtype).tobytes()
