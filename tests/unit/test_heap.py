"""What was freed is the system's again, and graphs that nobody holds are gone."""

import sys
import weakref
from pathlib import Path

import pytest

from onnxq import heap
from onnxq.heap import make_room

PIECES, PIECE = 1000, 64 << 10
"""Pieces below 128 KiB come from glibc's heap, and each second one stays, so that it cannot shrink itself."""


def resident() -> int:
    """Return the bytes of this process that are in memory, code and mapped files left out."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' allocators do this themselves")
def test_what_was_freed_is_the_systems_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "WORTH_IT", 0)
    pieces = [bytearray(PIECE) for _ in range(PIECES)]
    before = resident()
    del pieces[::2]
    make_room()
    assert before - resident() > PIECES // 2 * PIECE * 0.9  # pages at the borders of pieces stay


class Circle:
    """Holds itself, as values and nodes of a graph hold each other."""

    def __init__(self) -> None:
        self.own = self


@pytest.mark.parametrize(("worth", "stays"), [(0, False), (1 << 50, True)])
def test_circles_that_nobody_holds_are_gone_unless_little_is_held(
    monkeypatch: pytest.MonkeyPatch, worth: int, stays: bool
) -> None:
    monkeypatch.setattr(heap, "WORTH_IT", worth)
    circle = weakref.ref(Circle())
    make_room()
    assert (circle() is not None) is stays
