"""How option values are written in pipeline text."""

from __future__ import annotations

import json
import re

BARE = re.compile(r'[^\s,{}"+]+')
"""What needs no quotes in an option's value."""


def value_text(value: object) -> str:
    """Return an option's value as pipeline text: ``true``, ``none``, ``0.5``, ``Conv+Gemm``."""
    if isinstance(value, tuple):
        return "+".join(value_text(item) for item in value)
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return str(value)
    if BARE.fullmatch(value) and value != "none":
        return value
    return json.dumps(value, ensure_ascii=False)
