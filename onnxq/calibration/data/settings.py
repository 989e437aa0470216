"""Settings beside data or models: small JSON files that exporters write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onnxq.errors import DataError
from onnxq.reading import parse_json


def read_settings(path: Path, hint: str) -> Any:
    """Return what a JSON file holds.

    Raises:
        DataError: It cannot be read, or is no JSON; then ``hint`` says what to do.

    """
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror})", where=str(path), hint="check its name and rights"
        ) from error
    except ValueError as error:
        raise DataError(f"not valid JSON ({error})", where=str(path), hint=hint) from error
