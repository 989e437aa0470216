"""The two streams of the command line: results to standard output, all else to standard error."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from onnxq.errors import OnnxqError, PassError, PipelineError
from onnxq.report.words import lines, printable

SCHEMA = 1
"""The version of what ``--json`` prints; it grows when a key changes its meaning or goes away."""

OnProgress = Callable[[str, int, int | None], None]
"""Called with what is being done, how far it is, and how far it will go if that is known."""


def show(*parts: RenderableType) -> None:
    """Print results; text as it is, without markup and without breaking long lines."""
    console = Console(highlight=False, markup=False, emoji=False)
    for part in parts:
        if isinstance(part, str):
            console.print(lines(part), soft_wrap=True)
        else:
            console.print(part)


def show_json(command: str, content: Mapping[str, Any]) -> None:
    """Print one JSON object: the schema's version, the command, and ``content``."""
    from onnxq.runtime.compare import plain

    finite = plain({"schema": SCHEMA, "command": command, **content})
    typer.echo(json.dumps(finite, indent=2, allow_nan=False))


def remark(text: str, kind: str = "note") -> None:
    """Print one line that is no result."""
    _say(kind, "yellow" if kind == "warning" else "cyan", printable(text))


class _Remarks(logging.Handler):
    """Prints what the library logs as remarks."""

    def emit(self, record: logging.LogRecord) -> None:
        remark(record.getMessage(), record.levelname.lower())


def listen() -> None:
    """Let what the library logs from now on be printed; asked twice, it is printed once."""
    logger = logging.getLogger("onnxq")
    if not any(isinstance(handler, _Remarks) for handler in logger.handlers):
        logger.addHandler(_Remarks())


def show_error(error: OnnxqError) -> None:
    """Print what is wrong, where, and what to do."""
    pictured = isinstance(error, PipelineError)
    _say("error", "bold red", lines(str(error)) if pictured else printable(str(error)))
    if error.hint:
        _say("  hint", "green", printable(error.hint))
    if isinstance(error, PassError) and error.reproducer:
        _say("  reproducer", "green", printable(str(error.reproducer)))


def complain(text: str, hint: str | None = None) -> None:
    """Print an error that is not one of onnxq's own."""
    _say("error", "bold red", printable(text))
    if hint:
        _say("  hint", "green", printable(hint))


@contextmanager
def progress() -> Iterator[OnProgress]:
    """Show bars on standard error while the block runs, if a person is looking at it."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def update(stage: str, done: int, total: int | None) -> None:
            if stage not in tasks:
                for earlier in bars.tasks:
                    bars.update(earlier.id, total=earlier.completed)
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield update


def _say(label: str, style: str, shown: str) -> None:
    """Print one line, or the lines of a picture; names in it are shown as text already."""
    line = Text.assemble((f"{label}:", style), f" {shown}")
    Console(stderr=True, highlight=False).print(line, soft_wrap=True)
    sys.stderr.flush()
