"""Writing files whole or not at all: under a temporary name in the same folder, then renamed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onnxq.errors import InputError
from onnxq.staging import HIDDEN, NEW, move_into_place, probe, staging


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file; a failure leaves the older file, or none, and nothing else.

    Args:
        path: The file; its folder exists.
        content: Bytes, or text that is written as UTF-8.

    Raises:
        InputError: The folder is missing, read-only or full, or ``path`` is no regular file.

    """
    with replacing(path) as (staged,):
        staged.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(*paths: Path) -> Iterator[tuple[Path, ...]]:
    """Yield a temporary path for each of ``paths``, and rename them all once the block is done.

    A failure in the block, an interrupt too, leaves every older file as it was and no temporary
    file. So does, once anything is written into the folder again, a run that was killed.

    Args:
        paths: Files of one folder, which exists.

    Raises:
        InputError: One of them cannot be written.

    """
    with write_errors(paths[-1]):
        for path in paths:
            _check_kind(path)
        with staging(paths[0].parent) as stage:
            yield tuple(stage / NEW / path.name for path in paths)
            move_into_place(stage, [path.name for path in paths])


@contextmanager
def replacing_folder(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary folder whose files move into ``path`` once the block is done.

    Args:
        path: The folder; it is made if it does not exist.
        force: Accept a folder with files in it. Those of the same name are replaced, others stay.

    Raises:
        InputError: ``path`` is a file, holds files and ``force`` is not set, or cannot be written.

    """
    with write_errors(path):
        _check_folder(path, force)
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        there = path.exists()
        with staging(path if there else path.absolute().parent) as stage:
            yield stage / NEW
            if there:
                files = sorted(file for file in (stage / NEW).rglob("*") if file.is_file())
                move_into_place(stage, [str(file.relative_to(stage / NEW)) for file in files])
            else:
                (stage / NEW).rename(path)


def check_target(path: Path) -> None:
    """Raise if a file cannot be written at ``path``, as far as that is known beforehand.

    Raises:
        InputError: The folder is missing or read-only, or ``path`` is no regular file.

    """
    _check_kind(path)
    with write_errors(path):
        probe(path.parent)


def require_utf8(path: Path, kind: type[InputError] = InputError) -> None:
    """Raise ``kind`` if ``path`` is not UTF-8: ONNX Runtime takes no other names of models.

    Raises:
        InputError: It is not; in the class ``kind``.

    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise kind(
            "ONNX Runtime opens no model whose name is not UTF-8",
            where=str(path),
            hint="rename it, or where the locale is the reason: export LC_ALL=C.UTF-8",
        ) from error


def as_utf8(name: str) -> str:
    r"""Return a name of the file system as text; bytes in it that are not UTF-8 are written like ``\xff``."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Tell of a read-only or full folder as the caller's error.

    Raises:
        InputError: The block could not write.

    """
    try:
        yield
    except OSError as error:
        raise InputError(
            f"it cannot be written: {error.strerror or error}{_elsewhere(error, path)}",
            where=str(path),
            hint="check the folder's permissions and free space, or write elsewhere",
        ) from error


def _elsewhere(error: OSError, path: Path) -> str:
    """Return the file that failed if it is neither ``path`` nor one that the user never sees."""
    failed = "" if error.filename is None else str(error.filename)
    return f", because of {failed}" if failed not in ("", str(path)) and HIDDEN not in failed else ""


def _check_folder(path: Path, force: bool) -> None:
    if path.exists() and not path.is_dir():
        raise InputError("this is not a folder", where=str(path), hint="name a new folder")
    if path.is_dir() and any(path.iterdir()) and not force:
        raise InputError("the folder is not empty", where=str(path), hint="name a new folder, or use --force")


def _check_kind(path: Path) -> None:
    if not path.parent.is_dir():
        raise InputError(
            "the folder to write into does not exist",
            where=str(path),
            hint=f"make it first: mkdir -p {path.parent}",
        )
    if path.exists() and not path.is_file():
        raise InputError("this is not a file that can be replaced", where=str(path), hint="name another file")
