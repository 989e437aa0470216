"""Results that a notebook shows as tables; what draws them is handed in by the front door, from above."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar


class Shown:
    """A result that a notebook shows."""

    draw: ClassVar[Callable[[object], str]]
    """Makes HTML of any of them; importing ``onnxq`` sets it."""

    def _repr_html_(self) -> str:
        """Return tables as HTML."""
        return type(self).draw(self)
