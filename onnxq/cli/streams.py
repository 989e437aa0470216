"""Standard streams that a command can rely on: open, and never the cause of a wrong exit code."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

BROKEN_PIPE = 141
"""128 + SIGPIPE: how a shell reports a command whose reader has gone."""


def settle_streams() -> None:
    """Let standard output and error end the process with 141 where their reader has gone, or there is none.

    Text that their encoding lacks is written with backslashes: no name is a reason to fail.
    """
    for descriptor in (0, 1, 2):
        if not _is_open(descriptor):
            _open(descriptor)
    sys.stdin = sys.stdin or open(0)  # noqa: SIM115
    sys.stdout = _text(1, sys.stdout)
    sys.stderr = _text(2, sys.stderr)


class _Raw(io.FileIO):
    """One of the streams; what is written after its first failure goes nowhere."""

    def write(self, data: Any, /) -> int:
        """Write, or leave with 141: not by ``BrokenPipeError``, which others turn into 1 on its way out.

        That standard error cannot be written is nobody's to be told.
        """
        try:
            return super().write(data)
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if isinstance(error, BrokenPipeError):
                raise SystemExit(BROKEN_PIPE) from None
            if self.fileno() == 2:
                return len(data)
            raise


def _text(descriptor: int, old: Any) -> io.TextIOWrapper:
    raw = _Raw(descriptor, "w", closefd=False)
    buffered = io.BufferedWriter(raw)
    lines = descriptor == 2 or raw.isatty()
    encoding = old.encoding if old is not None else None
    return io.TextIOWrapper(buffered, encoding, "backslashreplace", line_buffering=lines)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _open(descriptor: int) -> None:
    """Let a descriptor that was closed be nothing to read, a pipe without a reader, or nowhere.

    Were it left closed, the next file that is opened would get its number, and be printed into.
    """
    if descriptor == 1:
        reader, found = os.pipe()
        os.close(reader)
    else:
        found = os.open(os.devnull, os.O_RDWR)
    if found != descriptor:
        os.dup2(found, descriptor)
        os.close(found)
