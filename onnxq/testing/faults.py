"""Faults: work in a child process that is killed, or told of an error, at its n-th call for files.

The operating system's own calls are counted, by Python's audit events, and the process is really killed.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

CALLS = frozenset({"open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.fsync"})
"""Audit events that are counted. ``os.replace`` is an ``os.rename``; ``os.fsync`` is added here."""

RENAMES = frozenset({"os.rename", "os.link", "os.remove"})
"""Those after which a folder shows other files."""


def killed_at_each(
    folder: Path, work: Callable[[], object], calls: frozenset[str] = CALLS, error: int | None = None
) -> Iterator[int]:
    """Run ``work`` in child processes, and yield the number of the call that each was stopped before.

    The first one is stopped before its first call that touches ``folder``, the next before its second, and
    so on, until one is not stopped any more. Between two of them the caller looks, and puts all back.

    Args:
        folder: Calls for files elsewhere do not count.
        work: What is done; an exception in it ends the child.
        calls: Audit events that count.
        error: An ``errno``: the call fails with it, once, instead of the process being killed.

    """
    number = 0
    while _is_hit(folder, work, calls, error, number):
        yield number
        number += 1


def _is_hit(
    folder: Path, work: Callable[[], object], calls: frozenset[str], error: int | None, number: int
) -> bool:
    """Tell whether a child came as far as the call of this number."""
    reached, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _in_child(folder, work, calls, error, number, writer)
    os.close(writer)
    with os.fdopen(reached, "rb") as pipe:
        hit = pipe.read() != b""
    os.waitpid(child, 0)
    return hit


def _in_child(
    folder: Path, work: Callable[[], object], calls: frozenset[str], error: int | None, number: int, told: int
) -> NoReturn:
    counted = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        """Count the calls that touch the folder, and let the one with ``number`` die or fail."""
        nonlocal counted
        if event not in calls or not _touches(folder, arguments):
            return
        counted += 1
        if counted != number + 1:
            return
        os.write(told, b"!")
        if error is None:
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(error, os.strerror(error or 0), str(folder))

    try:
        _report_fsync()
        sys.addaudithook(hook)
        work()
    finally:
        os._exit(0)


def _touches(folder: Path, arguments: tuple[Any, ...]) -> bool:
    """Tell whether a call is for a path in ``folder``, or relative to an open folder, as ``rmtree``'s are."""
    for argument in arguments:
        if isinstance(argument, str | bytes | os.PathLike) and os.fsdecode(argument).startswith(str(folder)):
            return True
    return len(arguments) > 1 and isinstance(arguments[-1], int) and arguments[-1] >= 0


def _report_fsync() -> None:
    """Let ``os.fsync``, which has no audit event, have one, with the path of the open file."""
    fsync = os.fsync

    def reporting(descriptor: int) -> None:
        sys.audit("os.fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    os.fsync = reporting  # type: ignore[assignment]
