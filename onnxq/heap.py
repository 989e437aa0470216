"""Freed memory goes back to the system between the phases of a compilation."""

from __future__ import annotations

import ctypes
import gc
import math
import mmap
import sys
from pathlib import Path

WORTH_IT = 400 << 20
"""Below so many bytes, collecting takes more time than the memory is worth: importing takes half of them."""


def keep_imported() -> None:
    """Let collections pass over what is alive now, modules above all, so that each takes little time."""
    gc.collect()
    gc.freeze()


def make_room() -> None:
    """Let go of graphs that nobody holds, which are full of circles, and of the heap that was freed.

    Where so little is held that nobody misses it, Python lets go of them when there are many.
    """
    if resident_bytes() >= WORTH_IT:
        gc.collect()
        trim()


def resident_bytes() -> float:
    """Return how much memory this process takes, mapped files included; infinite where nothing tells."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return math.inf
    return pages * mmap.PAGESIZE


def trim() -> None:
    """Let go of the heap that was freed.

    glibc keeps it, and the next phase would come on top of it.
    """
    trims = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trims is not None:
        trims(0)
