"""What may be replaced: files that onnxq wrote itself, known by a stamp, and none that is being read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from onnxq.errors import InputError
from onnxq.files import check_target

REPORT_END = "<!-- onnxq report -->"
"""The last line of a report, which Markdown does not show."""

_END = 1 << 16


@dataclass(frozen=True)
class Kind:
    """One kind of file that onnxq writes.

    Args:
        name: What it is called in messages.
        wrote: Tells whether a file is one that onnxq wrote.

    """

    name: str
    wrote: Callable[[Path], bool]


def _stamped(pattern: bytes) -> Callable[[Path], bool]:
    """Return what tells whether ``pattern`` is within 64 KiB of a file's start or end."""
    stamp = re.compile(pattern)

    def has_stamp(path: Path) -> bool:
        with path.open("rb") as file:
            start = file.read(_END)
            file.seek(max(0, path.stat().st_size - _END))
            return any(map(stamp.search, (start, file.read())))

    return has_stamp


MODEL = Kind("model", _stamped(rb"onnxq\.version"))
"""ONNX files have their metadata at their end."""
MANIFEST = Kind("manifest", _stamped(rb'\A\{\n "schema_version": \d+,\n "recipe": \{'))
REPORT = Kind("report", _stamped(REPORT_END.encode() + rb"\n\Z"))
TABLE = Kind("table", _stamped(rb'\n "onnxq": "[^"\n]*",\n "samples": \d+,\n "schema": \d+\n\}\n\Z'))
PAGE = Kind("page", _stamped(rb'<meta name="generator" content="onnxq">'))
DUMP = Kind("dump", _stamped(rb"\A# after pass \d+: "))
REPRODUCER = Kind("reproducer", _stamped(rb"\A# RUN: "))


def refuse_overwriting(
    path: Path,
    kind: Kind,
    *,
    inputs: Iterable[Path] = (),
    force: bool = False,
    hint: str = "name another file, or remove this one",
) -> None:
    """Raise if ``path`` cannot be written, is being read, or is a file that onnxq did not write.

    Args:
        path: The file that will be written once the work is done.
        kind: What it will be; other kinds are not replaced.
        inputs: Files and folders that are read. They are not replaced by any name that they have, and in a
            folder nothing is that onnxq did not write; not with ``force`` either.
        force: Replace any other file.
        hint: What to do about a file that is not onnxq's.

    Raises:
        InputError: It must not or cannot be replaced.

    """
    check_target(path)
    if not path.exists():
        return
    ours = kind.wrote(path)
    for file in inputs:
        if is_same(path, file) or (not ours and _is_inside(path, file)):
            raise InputError(
                f"this is being read, as {file}; it is not overwritten",
                where=str(path),
                hint="write to another file",
            )
    if not ours and not force:
        what = f"it exists already, and onnxq did not write it as a {kind.name}"
        raise InputError(what, where=str(path), hint=hint)


def is_same(path: Path, other: Path) -> bool:
    """Tell whether two paths lead to one file, by links or however they are spelled."""
    return path.exists() and other.exists() and path.samefile(other)


def _is_inside(path: Path, folder: Path) -> bool:
    return folder.is_dir() and path.resolve().is_relative_to(folder.resolve())
