"""What was computed for a layer or value, kept while a model is built again and again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from numpy.typing import NDArray

T = TypeVar("T")


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
