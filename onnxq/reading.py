"""Reading small files that somebody else wrote: text and JSON, with one kind of failure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from onnxq.errors import OnnxqError

LONGEST = 300
"""Characters that are shown of a library's message; some print a whole graph."""


class UnreadableError(ValueError):
    """What is wrong with a file's content, on one line."""


@contextmanager
def untrusted() -> Iterator[None]:
    """Take whatever a library raises while it reads a file as said about the file; our own errors pass.

    Libraries raise what damage makes them meet: KeyError, RecursionError, MemoryError, a panic of Rust's.
    Nothing of our own but plain conversions belongs into the block.

    Raises:
        UnreadableError: The block failed.

    """
    try:
        yield
    except (OnnxqError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except RecursionError as error:
        raise UnreadableError("it is nested too deeply") from error
    except MemoryError as error:
        raise UnreadableError("it asks for more memory than there is") from error
    except BaseException as error:
        reason = " ".join(f"{error}".split()) or type(error).__name__
        raise UnreadableError(reason[:LONGEST]) from error


def parse_json(text: str) -> Any:
    """Return what a JSON text holds.

    Raises:
        UnreadableError: It is no JSON, or nested too deeply.

    """
    with untrusted():
        return json.loads(text)
