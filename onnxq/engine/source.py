"""A model file that is opened once and has to stay as it is for as long as it is worked on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from onnxq.errors import ModelError
from onnxq.ir.module import GraphModule
from onnxq.ir.store import load_model, model_digest, model_files


@dataclass(frozen=True)
class Source:
    """A model, and what its files were when work on it began.

    Whatever is read of it is checked to be of those bytes: else a digest, a compilation and a comparison
    could each be of another model.

    Args:
        path: The model.
        digest: Of its content, and that of its data files; see ``model_digest``.
        looks: Each file with what changes when it is written or replaced.

    """

    path: Path
    digest: str
    looks: Mapping[Path, tuple[int, int, int] | None]

    @classmethod
    def of(cls, path: Path) -> Source:
        """Begin to watch.

        Raises:
            ModelError: The model or its data cannot be read.

        """
        looks = {file: _look(file) for file in model_files(path)}
        return cls(path, model_digest(path), looks)

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
        """Read all files again, and require that no byte has changed.

        Raises:
            ModelError: One has, or cannot be read any more.

        """
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


def _look(file: Path) -> tuple[int, int, int] | None:
    """Return what tells cheaply that a file is another one, or none: its place on the disk, size and time."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
