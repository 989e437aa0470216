"""A bag of independent jobs: done here, or in processes beside this one; results in order, and the same."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any, Protocol, TypeVar

from onnxq.engine.known import UnmeasuredError
from onnxq.engine.worker import Worker
from onnxq.runtime.run import Run

T = TypeVar("T")
R = TypeVar("R")
T_contra = TypeVar("T_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

AHEAD = 2
"""Jobs for each process that are begun, or wait for it, before the results of earlier ones are asked for."""


class Job(Protocol[T_contra, R_co]):
    """What is done for each item. No result depends on which items came before."""

    def __call__(self, item: T_contra, /) -> R_co:
        """Do it here."""

    def elsewhere(self) -> Callable[[T_contra], Any]:
        """Return what does the same in another process, and gives an answer for ``accept``; it is pickled.

        Where it raises ``UnmeasuredError``, the item is done here.
        """

    def accept(self, answer: Any, /) -> R_co:
        """Return the result that is in an answer from elsewhere, and keep what else is of use."""


class Executor(Protocol):
    """Does a job for many items."""

    def opened(self, job: Job[T, R]) -> AbstractContextManager[Callable[[Iterable[T]], Iterator[R]]]:
        """Return what gives the results for items, in order; to be used within the block."""


@dataclass(frozen=True)
class Serial:
    """Does one item after the other, and none that nobody asks for."""

    @contextmanager
    def opened(self, job: Job[T, R]) -> Iterator[Callable[[Iterable[T]], Iterator[R]]]:
        """Return what gives the results, lazily."""
        yield lambda items: map(job, items)


@dataclass(frozen=True)
class Processes:
    """Does a few items at a time, a little ahead of whoever asks for the results.

    Args:
        count: How many processes there are; each opens the job once.

    """

    count: int

    @contextmanager
    def opened(self, job: Job[T, R]) -> Iterator[Callable[[Iterable[T]], Iterator[R]]]:
        """Return what gives the results; the processes end with the block, whatever they are doing.

        Raises:
            TargetError: A process ended while it was asked for something.

        """
        with TemporaryDirectory(prefix="onnxq-jobs-") as folder, ExitStack() as ends:
            path = Path(folder, "job.pickle")
            with path.open("wb") as file:
                pickle.dump(job.elsewhere(), file, pickle.HIGHEST_PROTOCOL)
            threads = ends.enter_context(ThreadPoolExecutor(self.count))
            idle: SimpleQueue[Worker] = SimpleQueue()
            for _ in range(self.count):
                idle.put(ends.enter_context(Worker(path)))

            def begin(item: T) -> Future[Any]:
                return threads.submit(_done, idle, item)

            yield lambda items: _in_order(items, begin, job, AHEAD * self.count)


def executor_of(processes: int) -> Executor:
    """Return what does so many jobs at a time."""
    return Processes(processes) if processes > 1 else Serial()


def beside_others(run: Run) -> Run:
    """Return the same run for a process that shares the cores: threads that wait leave them to others.

    There are as many threads as ever, so that work is cut alike and the last bits are the same.
    """
    return run.with_defaults({"session.intra_op.allow_spinning": "0"})


def _done(idle: SimpleQueue[Worker], item: object) -> Any:
    worker = idle.get()
    try:
        return worker.ask(item)
    finally:
        idle.put(worker)


def _in_order(
    items: Iterable[T], begin: Callable[[T], Future[Any]], job: Job[T, R], ahead: int
) -> Iterator[R]:
    """Yield results; what was not begun when the caller leaves is not done."""
    begun: deque[tuple[T, Future[Any]]] = deque()
    waiting = iter(items)
    try:
        while True:
            begun.extend((item, begin(item)) for item in islice(waiting, ahead - len(begun)))
            if not begun:
                return
            item, future = begun.popleft()
            try:
                result = job.accept(future.result())
            except UnmeasuredError:
                result = job(item)
            yield result
    finally:
        for _, future in begun:
            future.cancel()
