"""Jobs in processes: the same results in the same order, the same errors, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from onnxq.engine.executor import Executor, Processes, Serial, executor_of
from onnxq.errors import DataError, PipelineError, TargetError

SLOW = "__import__('time').sleep(0.5) or 'slow'"
PID = "__import__('os').getpid()"
MOST_SECONDS = 60
"""A process ends at once; a busy machine may take its time to say so."""


@dataclass(frozen=True)
class Evaluate:
    """A job whose items are Python expressions; ``here`` is what was evaluated in this process."""

    here: list[str] = field(default_factory=list)

    def __call__(self, text: str) -> Any:
        self.here.append(text)
        return eval(text)

    def elsewhere(self) -> Callable[[str], Any]:
        return eval

    def accept(self, answer: Any) -> Any:
        return answer


def raising(error: str) -> str:
    return f"(_ for _ in ()).throw({error})"


def of(module: str, call: str) -> str:
    return f"__import__({module!r}, fromlist=['x']).{call}"


BOTH = pytest.mark.parametrize("executor", [Serial(), Processes(2)])


@BOTH
def test_results_are_in_order(executor: Executor) -> None:
    with executor.opened(Evaluate()) as each:
        assert list(each([SLOW, "1 + 1", "'a' * 3"])) == ["slow", 2, "aaa"]
        assert list(each([])) == []


def test_serial_does_nothing_that_nobody_asks_for() -> None:
    job = Evaluate()
    with Serial().opened(job) as each:
        results = each(["1", "2", "3"])
        assert job.here == []
        assert [next(results), next(results)] == [1, 2]
    assert job.here == ["1", "2"]


def test_processes_are_others_and_each_is_used_again() -> None:
    with Processes(2).opened(Evaluate()) as each:
        found = set(each([PID] * 12))
    assert 1 <= len(found) <= 2
    assert os.getpid() not in found


def test_processes_go_a_little_ahead_and_no_further() -> None:
    taken: list[int] = []

    def items() -> Iterator[str]:
        for number in range(100):
            taken.append(number)
            yield str(number)

    with Processes(2).opened(Evaluate()) as each:
        results = each(items())
        assert [next(results), next(results)] == [0, 1]
        assert len(taken) == 5  # four at once, and one more when the first was there
        results.close()
        assert list(each(["7"])) == [7]


@BOTH
def test_an_error_of_a_job_is_the_same_error_and_others_go_on(executor: Executor) -> None:
    data = of("onnxq.errors", "DataError('no rows', where='x.npz', hint='give some')")
    pipeline = of("onnxq.passmanager.pipeline", "parse_pipeline('no-such-pass')")
    with executor.opened(Evaluate()) as each:
        with pytest.raises(DataError) as found:
            list(each(["1", raising(data), "2"]))
        assert (found.value.message, found.value.where, found.value.hint) == ("no rows", "x.npz", "give some")
        assert str(found.value) == "x.npz: no rows"
        with pytest.raises(PipelineError, match="no-such-pass"):
            list(each([pipeline]))
        with pytest.raises(ZeroDivisionError):
            list(each(["1 / 0"]))
        assert list(each(["1"])) == [1]


def test_an_error_that_cannot_travel_is_told_in_words() -> None:
    local = raising("type('Odd', (Exception,), {})('lost on the way')")
    with Processes(2).opened(Evaluate()) as each, pytest.raises(RuntimeError, match="Odd: lost on the way"):
        list(each([local]))


def test_what_was_not_measured_is_done_here() -> None:
    job = Evaluate()
    missing = f"{PID} if {PID} == {os.getpid()} else " + raising(
        of("onnxq.engine.known", "UnmeasuredError('x')")
    )
    with Processes(2).opened(job) as each:
        assert list(each(["1", missing, "2"])) == [1, os.getpid(), 2]
    assert job.here == [missing]


@pytest.mark.parametrize(
    ("death", "told"),
    [
        (of("os", "_exit(7)"), "exit status 7"),
        (of("os", f"kill({PID}, 9)"), "signal 9"),
    ],
)
def test_a_process_that_dies_is_told(death: str, told: str) -> None:
    with Processes(2).opened(Evaluate()) as each, pytest.raises(TargetError, match=told) as found:
        list(each(["1", death, "2"]))
    assert "--processes 1" in (found.value.hint or "")


def test_what_a_job_prints_is_no_answer(capfd: pytest.CaptureFixture[str]) -> None:
    with Processes(2).opened(Evaluate()) as each:
        assert list(each(["print('printed') or 1", of("os", "write(1, b'written')")])) == [1, 7]
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "written" in shown.err


def gone(pid: int) -> bool:
    """Tell whether a process has ended, be it that nobody has asked for its status yet."""
    try:
        os.kill(pid, 0)
        return ") Z" in Path(f"/proc/{pid}/stat").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return True


def interrupt_once(path: Path) -> None:
    """Interrupt this process, as Ctrl-C does, once there is a file."""

    def wait() -> None:
        while not path.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    Thread(target=wait, daemon=True).start()


def test_processes_end_with_the_block_whatever_they_do(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    sleeping = of("pathlib", f"Path({str(begun)!r}).touch() or __import__('time').sleep(1000)")
    found: list[Any] = []

    def work() -> None:
        with Processes(2).opened(Evaluate()) as each:
            found.extend(each([PID, of("tempfile", "mkdtemp()")]))
            interrupt_once(begun)
            list(each([sleeping] * 4))

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        work()
    assert time.monotonic() - began < MOST_SECONDS
    pid, scratch = found
    assert gone(pid)
    assert not Path(scratch).parent.exists()


def test_processes_end_with_whoever_asks_and_leave_nothing(tmp_path: Path) -> None:
    """Killed, nobody leaves the block: the processes notice, in the midst of a job too."""
    asking = f"""
import sys, time
from onnxq.engine.worker import Worker
import pickle
job = {str(tmp_path / "job" / "job.pickle")!r}
pickle.dump(eval, open(job, "wb"))
from pathlib import Path
worker = Worker(Path(job))
print(worker.ask({PID!r}), flush=True)
worker.ask("__import__('time').sleep(1000)")
"""
    (tmp_path / "job").mkdir()
    with subprocess.Popen([sys.executable, "-c", asking], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()
    end = time.monotonic() + MOST_SECONDS
    while not gone(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert gone(pid)
    assert not (tmp_path / "job").exists()


def test_one_process_is_this_one() -> None:
    assert [executor_of(count) for count in (1, 2)] == [Serial(), Processes(2)]
