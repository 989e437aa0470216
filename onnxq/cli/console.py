"""The two streams of the command line: results to standard output, all else to standard error."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from onnxq.errors import OnnxqError, PassError, PipelineError
from onnxq.progress import Progress as OnProgress
from onnxq.report.words import lines, printable

SHORT = 1.0
"""Seconds: a phase that took less is not shown any more once the next one begins."""
SCHEMA = 1
"""The version of what ``--json`` prints; it grows when a key changes its meaning or goes away."""


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
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), _Amount(), _Times())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        yield _Phases(bars).update


@dataclass(frozen=True)
class _Phases:
    """One bar for each phase, in the order in which they began."""

    bars: Progress
    tasks: dict[str, TaskID] = field(default_factory=dict)

    def update(self, phase: str, done: int, total: int | None) -> None:
        """Show how far a phase is; one that is behind where it was has begun again."""
        if phase not in self.tasks or self._task(phase).completed > done:
            self._begin(phase)
        self.bars.update(self.tasks[phase], completed=done, total=total)

    def _begin(self, phase: str) -> None:
        """Start the clock, end the phases that only this tells the end of, and hide those that were short."""
        for earlier in self.bars.tasks:
            if earlier.total is None:
                self.bars.update(earlier.id, total=earlier.completed)
            if (earlier.finished_time or SHORT) < SHORT:
                self.bars.update(earlier.id, visible=False)
        if phase in self.tasks:
            self.bars.reset(self.tasks[phase], visible=True)
        else:
            self.tasks[phase] = self.bars.add_task(phase, total=None)

    def _task(self, phase: str) -> Task:
        return next(task for task in self.bars.tasks if task.id == self.tasks[phase])


class _Amount(ProgressColumn):
    """How much is done, of how much if that is known; nothing for a phase that counts nothing."""

    def render(self, task: Task) -> Text:
        whole = "" if task.total is None else f"/{task.total:.0f}"
        return Text(f"{task.completed:.0f}{whole}" if task.completed or task.total else "")


class _Times(ProgressColumn):
    """The time since the phase began, and what it will take from here on."""

    def render(self, task: Task) -> Text:
        since = task.finished_time if task.finished else task.elapsed
        left = None if task.finished else task.time_remaining
        return Text(_clock(since or 0) + ("" if left is None else f", {_clock(left)} left"))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"


def _say(label: str, style: str, shown: str) -> None:
    """Print one line, or the lines of a picture; names in it are shown as text already."""
    line = Text.assemble((f"{label}:", style), f" {shown}")
    Console(stderr=True, highlight=False).print(line, soft_wrap=True)
    sys.stderr.flush()
