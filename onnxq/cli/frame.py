"""What every command shares: groups of options, and the way from an exception to an exit code."""

from __future__ import annotations

import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import typer

from onnxq.cli.console import complain, show_error
from onnxq.errors import OnnxqError
from onnxq.staging import repair

TRACEBACK = "ONNXQ_TRACEBACK"
"""The environment variable that asks for the traceback of every error."""

USAGE, OURS, INTERRUPTED = 2, 3, 130


def framed(run: Callable[..., None]) -> Callable[..., None]:
    """Return ``run`` as typer shall see it: groups of options spread out, errors turned into exit codes.

    A group is a frozen dataclass whose fields are annotated as typer wants its options; ``run``
    takes the group as one argument. Before it runs, folders that paths point into are repaired, if a run was
    stopped while it replaced files there.
    """
    hints = get_type_hints(run, include_extras=True)
    groups = {name: kind for name, kind in hints.items() if is_dataclass(kind) and isinstance(kind, type)}
    parameters = [
        one for parameter in inspect.signature(run).parameters.values() for one in _spread(parameter, hints)
    ]

    def command(**given: Any) -> None:
        for folder in sorted({path.parent for path in _paths(given.values())}):
            repair(folder)
        built = {name: kind(**_taken(given, kind)) for name, kind in groups.items()}
        run(**given, **built)

    guarded = _guarded(command)
    guarded.__doc__ = _paragraphs(inspect.getdoc(run) or "")
    guarded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    guarded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return guarded


def _paths(values: Iterable[Any]) -> Iterator[Path]:
    """Yield the paths among what was given, and in lists of it."""
    for value in values:
        if isinstance(value, Path):
            yield value
        elif isinstance(value, list):
            yield from _paths(value)


def _paragraphs(text: str) -> str:
    """Join the lines of each paragraph, which the help breaks again where the terminal ends."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _spread(parameter: inspect.Parameter, hints: Mapping[str, Any]) -> Iterator[inspect.Parameter]:
    """Yield the parameter, or one for each field of its group."""
    kind = hints[parameter.name]
    if not is_dataclass(kind):
        yield parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=kind)
        return
    inner = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        yield inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=inner[field.name]
        )


def _taken(given: dict[str, Any], kind: Any) -> dict[str, Any]:
    """Take the fields of a group out of the arguments."""
    return {field.name: given.pop(field.name) for field in fields(kind)}


def _guarded(command: Callable[..., None]) -> Callable[..., None]:
    def guarded(**given: Any) -> None:
        code = _exit_code(lambda: command(**given))
        if code:
            raise typer.Exit(code)

    return guarded


def _exit_code(work: Callable[[], None]) -> int:
    """Do the work and return 0, or say what went wrong and return the code for it."""
    try:
        work()
        sys.stdout.flush()
    except typer.Exit as answer:
        return int(answer.exit_code)
    except OnnxqError as error:
        show_error(error)
        return _with_traceback(error.exit_code)
    except KeyboardInterrupt as stop:
        complain(": ".join(("interrupted", *map(str, stop.args))))
        return INTERRUPTED
    except OSError as error:
        complain(_os_reason(error))
        return _with_traceback(USAGE)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        complain(
            f"onnxq failed, which is its own fault: {reason}",
            f"please report it, with the traceback that {TRACEBACK}=1 prints",
        )
        return _with_traceback(OURS)
    return 0


def _os_reason(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


def _with_traceback(code: int) -> int:
    if os.environ.get(TRACEBACK):
        traceback.print_exc()
    return code
