"""A process beside this one that opens a job once and does it for one item after the other.

Run as a module, this file is that process: it reads a pickled job from a file and pickled items from its
standard input, and writes what became of each to its standard output. It ends with whoever asks.
"""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import IO, Any, Self

from onnxq.errors import TargetError


class Worker:
    """The process, as seen from here; an interrupt of the terminal does not reach it.

    Args:
        job: A file with the pickled job. What the process writes for itself lies in the same folder.

    """

    def __init__(self, job: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __spec__.name, str(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process, whatever it is doing; it is gone when this returns."""
        self._process.kill()
        self._process.wait()
        for pipe in self._pipes():
            try:
                pipe.close()
            except OSError:  # something was left to be written
                continue

    @property
    def status(self) -> int | None:
        """Its exit status, or minus the number of the signal that ended it; None while it runs."""
        return self._process.poll()

    def ask(self, item: object) -> Any:
        """Return what the job gives for an item, or raise its error.

        Raises:
            TargetError: The process has ended.

        """
        asked, answers = self._pipes()
        try:
            pickle.dump(item, asked, pickle.HIGHEST_PROTOCOL)
            asked.flush()
            good, result = pickle.load(answers)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise TargetError(
                f"a process of its own, for one job of several, ended with {_ending(self._process.wait())}",
                where="processes",
                hint="where memory is short, ask for fewer: --processes 1",
            ) from error
        if good:
            return result
        raise result

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        asked, answers = self._process.stdin, self._process.stdout
        if asked is None or answers is None:
            raise AssertionError("both are pipes")
        return asked, answers


def _ending(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"


def _main(file: str) -> None:
    """Do the job for items, one by one."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    folder = Path(file).parent
    tempfile.tempdir = str(folder)
    items: SimpleQueue[Any] = SimpleQueue()
    Thread(target=_listen, args=(items, folder), daemon=True).start()
    with open(file, "rb") as stored:
        job = pickle.load(stored)
    while True:
        pickle.dump(_outcome(job, items.get()), answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()


def _listen(items: SimpleQueue[Any], folder: Path) -> None:
    """Hand over what is asked; once nobody can ask any more, end the process, whatever it is doing.

    Whoever asked has then ended without leaving its block, and left the folder to be cleared away.
    """
    try:
        while True:
            items.put(pickle.load(sys.stdin.buffer))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)


def _outcome(job: Callable[[Any], Any], item: object) -> tuple[bool, Any]:
    """Return whether the job was done, and its result or its error."""
    try:
        return True, job(item)
    except Exception as error:
        error.add_note(f"In a process of its own:\n{traceback.format_exc()}")
        return False, _that_travels(error)


def _that_travels(error: Exception) -> Exception:
    """Return the error, or its text where pickling loses it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever the class of a stranger does
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


if __name__ == "__main__":
    _main(sys.argv[1])
