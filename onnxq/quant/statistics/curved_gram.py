"""Products of channels, each row weighed by how much the loss cares for what layers make of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxq.quant.statistics.base import Block, Float32
from onnxq.quant.statistics.gram import Gram, GramObserver, with_one


@dataclass(frozen=True, eq=False)
class CurvedGram(Gram):
    """``x.T @ diag(w) @ x`` over many rows ``x`` with a 1 behind them, shape (C + 1, C + 1).

    The weight of a row is the mean squared gradient of what matrix products make of it: so much an error of
    their outputs costs there.
    """

    name = "curved-gram"
    gradients = "products"

    @staticmethod
    def observer() -> CurvedGramObserver:
        """Return one without rows."""
        return CurvedGramObserver()


class CurvedGramObserver(GramObserver):
    """Products of channels of rows that were multiplied by the root of their weight."""

    def _rows(self, block: Block) -> Float32:
        squares = np.moveaxis(block.squares, block.axis, -1).mean(axis=-1, keepdims=True)
        weighed: Float32 = with_one(np.moveaxis(block.values, block.axis, -1)) * np.sqrt(squares)
        return weighed

    def result(self) -> CurvedGram | None:
        """Return the matrix."""
        found = super().result()
        return None if found is None else CurvedGram(found.values)
