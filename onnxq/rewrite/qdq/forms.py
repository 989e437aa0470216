"""Every form that encodings have as nodes."""

from __future__ import annotations

from onnxq.errors import PassError
from onnxq.quant.encodings import Encoding
from onnxq.rewrite.qdq.base import Form
from onnxq.rewrite.qdq.blocks import BlockPairs
from onnxq.rewrite.qdq.pairs import Pairs
from onnxq.rewrite.qdq.twins import TwinPairs

FORMS: list[Form] = [TwinPairs(), BlockPairs(), Pairs()]
"""The first that takes an encoding writes it."""


def form_of(encoding: Encoding) -> Form:
    """Return the form of an encoding.

    Raises:
        PassError: Nobody has said how its family is written.

    """
    for form in FORMS:
        if form.takes(encoding):
            return form
    raise PassError(f"encodings of type {type(encoding).__name__} have no form as nodes")
