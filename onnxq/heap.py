"""Freed memory goes back to the system between the phases of a compilation."""

from __future__ import annotations

import ctypes
import gc
import sys


def keep_imported() -> None:
    """Let collections pass over what is alive now, modules above all, so that each takes little time."""
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Let go of graphs that nobody holds, which are full of circles, and of the heap that was freed."""
    gc.collect()
    trim()


def trim() -> None:
    """Let go of the heap that was freed.

    glibc keeps it, and the next phase would come on top of it.
    """
    trims = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trims is not None:
        trims(0)
