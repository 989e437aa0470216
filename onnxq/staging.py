"""Files in the making: moved into place all or none, and cleared up after a run that died.

A staging folder is called ``.onnxq-write-XXXXXXXX`` and lies in the folder that is written into:

- ``new/``: what is being written;
- ``old/``: second names of the files that are replaced;
- ``moves.json``: what is replaced. It is there from before the first move until after the last one, so that
  it tells whether the files outside are a mixture;
- ``lock``: locked by the run for as long as it lives; no other sign of life can be trusted.

Who finds a staging folder that nobody holds undoes the moves that it tells of, and removes it. Where there is
no ``flock``, on Windows, nobody can tell: runs are not kept apart, and what a killed one left stays.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from tempfile import mkdtemp
from typing import Any

from onnxq.reading import parse_json

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

HIDDEN = ".onnxq-"
"""How everything begins that a user should never see."""
PREFIX = f"{HIDDEN}write-"
LOCK = f"{HIDDEN}lock"
"""Held while staging folders come and go, and while files move; there only as long."""

NEW, OLD, MOVES = "new", "old", "moves.json"

_log = logging.getLogger("onnxq")


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Yield a new staging folder in ``folder``, and remove it at the end.

    Raises:
        OSError: ``folder`` cannot be written.

    """
    with _locked(folder):
        _clear_all(folder)
        stage = Path(mkdtemp(prefix=PREFIX, dir=folder))
        held = (stage / "lock").open("wb")
        _try_lock(held.fileno())
    try:
        (stage / NEW).mkdir()
        (stage / OLD).mkdir()
        yield stage
    finally:
        with suppress(OSError), _locked(folder):
            held.close()  # on Windows, no file that is open can be removed
            shutil.rmtree(stage, ignore_errors=True)
        held.close()


def _rename(path: Path, to: Path) -> None:
    """Give a file another name, in place of the file that has it."""
    if os.name == "nt":
        os.replace(path, to)
    else:
        os.rename(path, to)


def probe(folder: Path) -> None:
    """Make and remove something in ``folder``.

    Raises:
        OSError: It cannot be written.

    """
    made = mkdtemp(prefix=PREFIX, dir=folder)
    with suppress(OSError):  # another run may be clearing it up already
        os.rmdir(made)


def move_into_place(stage: Path, names: Sequence[str]) -> None:
    """Let the files ``names`` in ``new/`` replace those beside the staging folder: all, or in the end none.

    Whatever stops this, the next ``staging`` or ``repair`` of the folder finds what was done and undoes it.

    Args:
        stage: A staging folder.
        names: Paths within ``new/``, and so within the folder; they are moved in this order.

    Raises:
        OSError: One cannot be moved. All are then as they were before.

    """
    folder = stage.parent
    for name in names:
        sync(stage / NEW / name)
        for place in (folder, stage / OLD):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        _write_moves(stage, names)
        try:
            for name in names:
                _set_aside(folder / name, stage / OLD / name)
            for name in names:
                _rename(stage / NEW / name, folder / name)
            for parent in {(folder / name).parent for name in names}:
                sync(parent)
            os.unlink(stage / MOVES)  # from here on the new files count
        except BaseException:
            _undo(stage)
            raise
        with suppress(OSError):  # they are in place; were the power cut now, it might all be undone
            sync(stage)


def repair(folder: Path) -> None:
    """Undo what a run that died half-way did to the files of ``folder``, remove what it left, and say so."""
    try:
        if _stages(folder) or os.path.lexists(folder / LOCK):
            with _locked(folder):
                _clear_all(folder)
    except OSError as error:
        _log.warning("%s: what a run that was stopped left here stays: %s", folder, error.strerror)


def _stages(folder: Path) -> list[Path]:
    """Return the staging folders that may be cleared up: none where nobody knows whether their runs live."""
    return sorted(folder.glob(f"{PREFIX}*")) if fcntl is not None and folder.is_dir() else []


def _clear_all(folder: Path) -> None:
    """Clear up after every run that has died; the folder is locked."""
    for stage in _stages(folder):
        with suppress(FileNotFoundError):  # it was another run's probe, and has gone
            if stage.stat().st_uid == os.geteuid():
                _clear(stage)


def _clear(stage: Path) -> None:
    """Undo and remove a staging folder, unless its run is still alive."""
    held = os.open(stage / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _try_lock(held):
            return
        undone = _undo(stage)
        shutil.rmtree(stage)
    except ValueError:
        _log.warning("%s: this was left by a run that was stopped, but it is damaged: look into it", stage)
        return
    finally:
        os.close(held)
    if undone:
        _log.warning(
            "%s: a run was stopped while it replaced files here, which are now as they were before it: %s",
            stage.parent,
            ", ".join(undone),
        )
    else:
        _log.warning("%s: removed what a run that was stopped had left", stage)


def _write_moves(stage: Path, names: Sequence[str]) -> None:
    """Write down, so that a power cut does not lose it, what is about to be replaced by what."""
    moves = {
        name: {"replaces": os.path.lexists(stage.parent / name), "new": _identity(stage / NEW / name)}
        for name in names
    }
    draft = stage / f"{MOVES}.draft"
    draft.write_text(json.dumps(moves), encoding="utf-8")
    sync(draft)
    _rename(draft, stage / MOVES)
    sync(stage)


def _set_aside(path: Path, old: Path) -> None:
    """Give an older file a second name; where there are no hard links, its only one."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if os.path.lexists(path):
        try:
            os.link(path, old, follow_symlinks=False)
        except OSError:
            _rename(path, old)


def _undo(stage: Path) -> list[str]:
    """Put the older files back, and return the names of all that were to be replaced.

    It may be stopped at any moment and done again. A file that somebody else has written meanwhile stays.

    Raises:
        ValueError: ``moves.json`` is not one that ``_write_moves`` wrote.

    """
    moves = _read_moves(stage)
    for name, move in moves.items():
        path, old = stage.parent / name, stage / OLD / name
        is_new = os.path.lexists(path) and _identity(path) == move["new"]
        if os.path.lexists(old):
            if is_new or not os.path.lexists(path):
                _rename(old, path)
        elif is_new and not move["replaces"]:
            os.unlink(path)
    for parent in {(stage.parent / name).parent for name in moves}:
        sync(parent)
    (stage / MOVES).unlink(missing_ok=True)
    return list(moves)


def _read_moves(stage: Path) -> dict[str, dict[str, Any]]:
    """Return what ``_write_moves`` wrote, nothing where it did not; no name leads out of the folder."""
    try:
        moves = parse_json((stage / MOVES).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    folder = stage.parent.resolve()
    for name, move in moves.items() if isinstance(moves, dict) else [("", None)]:
        inside = name and ".." not in PurePath(name).parts
        if not inside or not (folder / name).parent.resolve().is_relative_to(folder):
            raise ValueError(name)
        if not isinstance(move, dict) or move.keys() != {"replaces", "new"}:
            raise ValueError(name)
    return dict(moves)


def _identity(path: Path) -> list[int]:
    """Return what tells a file from the one that it replaced, and stays when it is moved or copied."""
    found = path.lstat()
    return [found.st_size, found.st_mtime_ns]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait until nobody else is here for this folder."""
    if fcntl is None:
        yield
        return
    path = folder / LOCK
    held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    while not _is_locked_at(path, held):
        os.close(held)
        held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(held)


def _is_locked_at(path: Path, held: int) -> bool:
    """Lock, and tell whether ``path`` is still this file: who had it before has removed it."""
    with suppress(OSError):  # a file system without locks: runs are then not kept apart
        fcntl.flock(held, fcntl.LOCK_EX)
    try:
        return os.path.samestat(os.fstat(held), path.stat())
    except FileNotFoundError:
        return False


def _try_lock(held: int) -> bool:
    """Lock, or return False at once if another process has the lock, or nobody can have one."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def sync(*paths: Path) -> None:
    """Wait until files' content, or folders' names, are on the disk, where the file system can do that.

    A disk that was full tells it here at the latest.
    """
    if fcntl is None:
        return  # Windows does it for nothing that is open for reading only
    for path in paths:
        _sync(path)


def _sync(path: Path) -> None:
    held = os.open(path, os.O_RDONLY)
    try:
        os.fsync(held)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(held)
