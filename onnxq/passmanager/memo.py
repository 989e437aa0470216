"""What was computed for a layer or value, kept while a model is built again and again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from numpy.typing import NDArray

T = TypeVar("T")


class Same:
    """A key that stands for objects themselves, not for what they hold, and keeps them alive."""

    def __init__(self, *objects: object) -> None:
        self.objects = objects

    def __eq__(self, other: object) -> bool:
        """Tell whether the other key stands for the same objects."""
        return isinstance(other, Same) and self._ids() == other._ids()

    def __hash__(self) -> int:
        """Agree with equality."""
        return hash(self._ids())

    def _ids(self) -> tuple[int, ...]:
        return tuple(map(id, self.objects))


def content_of(*arrays: NDArray[Any]) -> bytes:
    """Return a key that stands for what arrays hold, as builds make them anew."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.digest()


@dataclass(frozen=True)
class Memo:
    """Results by what they were computed of; the caller's keys say all that a result depends on."""

    kept: dict[Hashable, Any] = field(default_factory=dict)

    def of(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return what ``compute`` gave when ``key`` was first asked for."""
        if key not in self.kept:
            self.kept[key] = compute()
        result: T = self.kept[key]
        return result
