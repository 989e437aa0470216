"""What a command may replace: files that onnxq wrote itself, known by a stamp in each, and no others."""

from __future__ import annotations

from pathlib import Path

from onnxq.errors import InputError
from onnxq.files import check_target

MODEL_STAMP = b"onnxq.version"
"""Stands in the metadata of a compiled model, which ONNX files have at their end."""
TABLE_STAMP = b'"onnxq": "'
"""Stands behind the facts of a calibration table."""
PAGE_STAMP = b'<meta name="generator" content="onnxq">'
"""Stands in the head of a page."""

_END = 1 << 16


def refuse_overwriting(
    path: Path, stamp: bytes, *, force: bool = False, hint: str = "name another file, or remove this one"
) -> None:
    """Raise if ``path`` cannot be written, or is a file without ``stamp`` within 64 KiB of its start or end.

    Args:
        path: The file that will be written once the work is done.
        stamp: What stands in files that may be replaced.
        force: Replace any file.
        hint: What to do about a file that is not onnxq's.

    Raises:
        InputError: There is such a file, or its folder is missing or read-only.

    """
    check_target(path)
    if path.is_file() and not force and not _has(path, stamp):
        raise InputError("it exists already, and onnxq did not write it", where=str(path), hint=hint)


def _has(path: Path, stamp: bytes) -> bool:
    with path.open("rb") as file:
        start = file.read(_END)
        file.seek(max(0, path.stat().st_size - _END))
        return stamp in start or stamp in file.read()
