"""Writing files whole or not at all: under a temporary name in the same folder, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from onnxq.errors import InputError


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
    file. The last path should be the one that makes the others count, as a model does its data.

    Args:
        paths: Files of one folder, which exists.

    Raises:
        InputError: One of them cannot be written.

    """
    with write_errors(paths[-1]):
        for path in paths:
            check_target(path)
        with TemporaryDirectory(prefix=".onnxq-", dir=paths[0].parent) as folder:
            staged = tuple(Path(folder, path.name) for path in paths)
            yield staged
            _move_all(staged, paths)


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
        with TemporaryDirectory(prefix=".onnxq-", dir=path.absolute().parent) as folder:
            staged = Path(folder, "new")
            staged.mkdir()
            yield staged
            _move_folder(staged, path)


def check_target(path: Path) -> None:
    """Raise if a file cannot be written at ``path``, as far as that is known beforehand.

    Raises:
        InputError: The folder is missing or read-only, or ``path`` is no regular file.

    """
    if not path.parent.is_dir():
        raise InputError(
            "the folder to write into does not exist",
            where=str(path),
            hint=f"make it first: mkdir -p {path.parent}",
        )
    if path.exists() and not path.is_file():
        raise InputError("this is not a file that can be replaced", where=str(path), hint="name another file")
    with write_errors(path), TemporaryDirectory(prefix=".onnxq-", dir=path.parent):
        pass


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
            f"it cannot be written: {error.strerror or error}",
            where=str(path),
            hint="check the folder's permissions and free space, or write elsewhere",
        ) from error


def _check_folder(path: Path, force: bool) -> None:
    if path.exists() and not path.is_dir():
        raise InputError("this is not a folder", where=str(path), hint="name a new folder")
    if path.is_dir() and any(path.iterdir()) and not force:
        raise InputError("the folder is not empty", where=str(path), hint="name a new folder, or use --force")


def _move_folder(staged: Path, path: Path) -> None:
    if not path.exists():
        staged.rename(path)
        return
    files = sorted(file for file in staged.rglob("*") if file.is_file())
    targets = [path / file.relative_to(staged) for file in files]
    for target in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
    _move_all(files, targets)


def _move_all(staged: Sequence[Path], paths: Sequence[Path]) -> None:
    """Rename all or none: until the last file is in place, a failure puts the older ones back."""
    moves = [(new, path, new.with_name(f"{new.name}.old")) for new, path in zip(staged, paths, strict=True)]
    try:
        for _, path, old in moves[:-1]:
            if path.exists():
                os.replace(path, old)
        for new, path, _ in moves:
            os.replace(new, path)
    except BaseException:
        if moves[-1][0].exists():
            _move_back(moves[:-1])
        raise


def _move_back(moves: Sequence[tuple[Path, Path, Path]]) -> None:
    for new, path, old in moves:
        if old.exists():
            os.replace(old, path)
        elif not new.exists():
            path.unlink(missing_ok=True)
