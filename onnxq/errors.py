"""The errors that onnxq raises, and the exit code that each gives the command line.

::

    OnnxqError
    ├─ InputError         the caller's side                        exit 2
    │  ├─ ModelError      the model cannot be read or compiled
    │  ├─ DataError       the data does not fit the model
    │  ├─ RecipeError     a recipe or an option is wrong
    │  └─ PipelineError   a pipeline text does not parse
    │     └─ UnknownPassError
    ├─ CalibrationError   table and model do not belong together   exit 2
    ├─ TargetError        a provider or an extra is missing        exit 2
    ├─ ToleranceError     the answer is no: a gate was missed      exit 1
    └─ PassError          our side: a pass broke a promise         exit 3
       ├─ PreconditionError
       └─ VerifyError

Every error says what is wrong, ``where``, and, as its ``hint``, what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path


class OnnxqError(Exception):
    """What is wrong, where it is, and what to do about it.

    Args:
        message: What is wrong, one clause without a full stop.
        where: The file, node, value or option it is about.
        hint: What the reader can do.

    """

    exit_code = 3

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        """Keep the three parts and join the first two for ``str()``."""
        super().__init__(f"{where}: {message}" if where else message)
        self.message, self.where, self.hint = message, where, hint


class InputError(OnnxqError):
    """The caller's model, data, option or recipe is at fault."""

    exit_code = 2


class ModelError(InputError):
    """The model cannot be read, checked or compiled."""


class DataError(InputError):
    """The data cannot be read or does not fit the model's inputs."""


class RecipeError(InputError):
    """A recipe or one of its settings is wrong."""


class PipelineError(InputError):
    """A pipeline text does not parse, or an option does not fit its pass.

    Args:
        message: What is wrong.
        text: The whole pipeline text.
        at: Where in ``text`` the fault starts, counted from 0.
        length: How many characters the caret line underlines.
        hint: What the reader can do.

    """

    def __init__(
        self, message: str, *, text: str = "", at: int = 0, length: int = 1, hint: str | None = None
    ) -> None:
        """Show the text with a caret under the fault."""
        picture = f"\n  {text}\n  {' ' * at}{'^' * max(length, 1)}" if text else ""
        super().__init__(message + picture, hint=hint)
        self.text, self.at, self.length = text, at, length


class UnknownPassError(PipelineError):
    """No installed distribution offers a pass of this name."""


class CalibrationError(OnnxqError):
    """A calibration table is unusable, or belongs to another model or other data."""

    exit_code = 2


class TargetError(OnnxqError):
    """An execution provider or an optional dependency is missing."""

    exit_code = 2


class ToleranceError(OnnxqError):
    """The answer is no: an accuracy, size or latency gate was missed."""

    exit_code = 1


class PassError(OnnxqError):
    """A pass failed or broke a promise; the fault is ours.

    Args:
        message: What went wrong.
        where: The pass, its place in the pipeline and, if known, the node.
        hint: What the reader can do.
        reproducer: The text file that reproduces the failure, once written.

    """

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        hint: str | None = None,
        reproducer: Path | None = None,
    ) -> None:
        """Keep the reproducer's path beside the message."""
        super().__init__(message, where=where, hint=hint)
        self.reproducer = reproducer


class PreconditionError(PassError):
    """A pass was run on a graph that does not have the form it needs."""


class VerifyError(PassError):
    """The graph is not valid, or was changed behind the Editor's back."""


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """Return a hint that names the nearest known word, or the whole choice if it is short."""
    names = sorted(known)
    near = get_close_matches(word, names, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"choose from: {', '.join(names)}" if 0 < len(names) <= 12 else None


@contextmanager
def called(scratch: Path, name: str) -> Iterator[None]:
    """Let errors about the file ``scratch``, which nobody will find, name what it stands for."""
    try:
        yield
    except OnnxqError as error:
        if error.where == str(scratch):
            error.where, error.args = name, (f"{name}: {error.message}",)
        raise
