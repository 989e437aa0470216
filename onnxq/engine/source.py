"""A model file that is opened once and has to stay as it is for as long as it is worked on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from onnxq.background import in_background
from onnxq.errors import ModelError
from onnxq.ir.module import GraphModule
from onnxq.ir.store import load_model, model_digest, model_files

TICK = 2_000_000_000
"""Nanoseconds within which two changes of a file may have the same time: FAT counts to two seconds."""


class Look(NamedTuple):
    """A file's place on the disk, its size, and the times of its content and of everything about it."""

    place: int
    size: int
    written: int
    changed: int


@dataclass(frozen=True)
class Source:
    """A model, and what its files were when work on it began.

    Whatever is read of it is checked to be of those bytes: else a digest, a compilation and a comparison
    could each be of another model.

    Args:
        path: The model.
        looks: Each file with what changes when it is written or replaced.
        began: When that was looked at, in nanoseconds of the clock.

    """

    path: Path
    looks: Mapping[Path, Look | None]
    began: int
    _hashed: Future[str] = field(repr=False, compare=False)

    @classmethod
    def of(cls, path: Path) -> Source:
        """Begin to watch.

        Raises:
            ModelError: The model or its data cannot be read.

        """
        began, looks = time.time_ns(), {file: _look(file) for file in model_files(path)}
        return cls(path, looks, began, in_background(lambda: model_digest(path)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Let another process go on with the same files, as they were when work on them began."""
        return _again, (self.path, self.looks, self.began, self.digest)

    @property
    def digest(self) -> str:
        """That of its content and its data files; see ``model_digest``.

        Raises:
            ModelError: One of them cannot be read.

        """
        return self._hashed.result()

    @cached_property
    def module(self) -> GraphModule:
        """The model as it was read and checked, once; it is only looked at.

        Raises:
            ModelError: It cannot be read, or has changed.

        """
        self.glance()
        module = load_model(self.path)
        self.glance()
        return module

    def clone(self) -> GraphModule:
        """Return the graph to work on; its weights are those of every other clone.

        Raises:
            ModelError: The model cannot be read, or has changed.

        """
        module = self.module.clone()
        self.glance()
        return module

    def verify(self) -> None:
        """Require that no byte has changed since work began.

        Files are read again, unless they look as they did and that tells: clocks of file systems tick slowly,
        so that what was written just before may have been written once more within the same tick.

        Raises:
            ModelError: One has, or cannot be read any more.

        """
        if all(_look(file) == look and _tells(look, self.began) for file, look in self.looks.items()):
            return
        changed = ModelError(
            "it has changed while it was worked on, so that nothing can be said of the result",
            where=str(self.path),
            hint="once nobody writes to it any more, do it again",
        )
        try:
            digest = model_digest(self.path)
        except ModelError as error:
            raise changed from error
        if digest != self.digest:
            raise changed

    def glance(self) -> None:
        """Look at the files, and read them again if one looks otherwise.

        Raises:
            ModelError: One has changed, or cannot be read any more.

        """
        if any(_look(file) != look for file, look in self.looks.items()):
            self.verify()


def _again(path: Path, looks: Mapping[Path, Look | None], began: int, digest: str) -> Source:
    hashed = Future[str]()
    hashed.set_result(digest)
    return Source(path, looks, began, hashed)


def _look(file: Path) -> Look | None:
    """Return what tells cheaply that a file is another one, or none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return Look(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _tells(look: Look | None, began: int) -> bool:
    """Tell whether a later change would have another time than the last one before work began."""
    return look is not None and max(look.written, look.changed) < began - TICK
