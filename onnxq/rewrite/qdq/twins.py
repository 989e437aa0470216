"""Twin encodings: what a fine pair makes of a value, plus what a coarse pair makes of the rest."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxq.errors import PassError
from onnxq.ir.module import name_of
from onnxq.quant.encodings import Encoding, Twin
from onnxq.rewrite.edit import Editor
from onnxq.rewrite.qdq.base import Form
from onnxq.rewrite.qdq.pairs import pair


class TwinPairs(Form):
    """``Add(DQ(Q(x)), DQ(Q(x - DQ(Q(x)))))``: the first saturates at the border, where the second begins."""

    def takes(self, encoding: Encoding) -> bool:
        """Those of two grids."""
        return isinstance(encoding, Twin)

    def activation(self, value: ir.Value, encoding: Encoding, edit: Editor) -> ir.Value:
        """Insert both pairs; ``split-twins`` moves a product into their sum."""
        assert isinstance(encoding, Twin)
        name, why = name_of(value), f"encoded as {encoding.dtype}"
        fine = pair(value, f"{name}_fine", encoding.fine, edit)
        rest = edit.behind(fine, why=why).Sub(value, fine, name=f"{name}_rest", like=value)
        coarse = pair(rest, f"{name}_coarse", encoding.coarse, edit)
        return edit.behind(coarse, why=why).Add(fine, coarse, name=f"{name}_dq", like=value)

    def constant(self, value: ir.Value, encoding: Encoding, readers: Sequence[ir.Node], edit: Editor) -> None:
        """Refuse: the two parts are made while a model runs.

        Raises:
            PassError: Always.

        """
        raise PassError(f"{name_of(value)!r} is a constant, and twin encodings are for what is computed")
