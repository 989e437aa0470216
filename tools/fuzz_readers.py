"""Mutate files of every kind that onnxq reads, and see that each is read or refused as the user's side.

A case is one mutated file, numbered and seeded: the same number is the same file. It runs in a process with
a limit on memory and time, so that a crash, a hang or a blow-up is an outcome like any other. What may happen
is that the file is taken (and, for a model, compiled), or that an error of exit code 1 or 2 says why not.
Anything else is a failure, and its file is kept.

    python tools/fuzz_readers.py --count 20000          # stops there; run again with more and it goes on
    python tools/fuzz_readers.py --minutes 60
    python tools/fuzz_readers.py --again                # the cases that failed, once they are mended
    python tools/fuzz_readers.py --only model:1234      # one case, with its traceback
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import numpy as np
from measuring import parser, show
from mutations import mutated
from readers import READERS, Reader

from onnxq.errors import OnnxqError

SECONDS = 20
"""No file of a few kilobytes may keep onnxq busy for longer, on one core of any machine of today."""
STUCK = 300
"""Seconds of wall clock after which a case waits for something that never comes, busy as others may be."""
MEMORY = 3 << 30
"""Bytes of address space above what is taken when a process starts."""
CHUNK = 100
"""Cases in one process."""
FINE = frozenset({"taken", "refused"})


class _TooLongError(BaseException):
    """The case was stopped."""


def main() -> None:
    """Run cases until count or minutes are reached, and print how they ended."""
    options = parser(__doc__)
    options.add_argument("--count", type=int, help="stop after so many cases in all")
    options.add_argument("--minutes", type=float, help="stop after so many minutes")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--state", type=Path, default=Path("fuzz-readers"), help="where it goes on from")
    options.add_argument("--again", action="store_true", help="run what failed before, and no more")
    options.add_argument("--only", metavar="KIND:NUMBER", help="run one case here, and show its traceback")
    args = options.parse_args()
    if args.only:
        kind, _, number = args.only.partition(":")
        sys.exit(_run_here(kind, args.seed, int(number)))
    if args.again:
        state = try_again(args.state)
    else:
        state = fuzz(args.state, seed=args.seed, count=args.count, minutes=args.minutes)
    rows = [
        {"reader": kind, "files": sum(found.values()), **{how: found.get(how, 0) for how in _columns(state)}}
        for kind, found in sorted(state["outcomes"].items())
    ]
    notes = [f"{state['next']} files, seed {state['seed']}; failures: {len(state['failures'])}"]
    show("Mutated files and what became of them", rows, notes, as_json=args.json)
    for failure in state["failures"]:
        print(failure, file=sys.stderr)
    sys.exit(bool(state["failures"]))


def fuzz(
    folder: Path, *, seed: int, count: int | None = None, minutes: float | None = None
) -> dict[str, Any]:
    """Go on from the state in ``folder`` until there are ``count`` cases, or for ``minutes``.

    Returns:
        ``next``, the number of cases so far; ``outcomes``, how often each happened, by reader; ``failures``.

    """
    folder.mkdir(parents=True, exist_ok=True)
    path, end = folder / "state.json", time.monotonic() + 60 * (minutes or 1e9)
    state = json.loads(path.read_text()) if path.is_file() else {"seed": seed, "next": 0, "outcomes": {}}
    state.setdefault("failures", [])
    if state["seed"] != seed:
        raise SystemExit(f"{path} goes on from seed {state['seed']}, not {seed}")
    while state["next"] < (count or sys.maxsize) and time.monotonic() < end:
        wanted = min(CHUNK, (count or sys.maxsize) - state["next"])
        for number, kind, outcome in _in_a_process(seed, state["next"], wanted):
            found, how = state["outcomes"].setdefault(kind, {}), outcome if outcome in FINE else "failed"
            found[how] = found.get(how, 0) + 1
            state["next"] = number + 1
            if outcome not in FINE:
                state["failures"].append(f"{kind}:{number} {outcome}")
                _keep(folder / "failures", kind, seed, number)
        path.write_text(json.dumps(state, indent=1))
    return state


def try_again(folder: Path) -> dict[str, Any]:
    """Run the cases that failed once more, and count what becomes of them now instead."""
    path = folder / "state.json"
    state: dict[str, Any] = json.loads(path.read_text())
    failures, state["failures"] = state["failures"], []
    for failure in failures:
        kind, _, number = failure.split()[0].partition(":")
        ((_, _, outcome),) = _in_a_process(state["seed"], int(number), 1)
        if outcome in FINE:
            found = state["outcomes"][kind]
            found["failed"] -= 1
            found[outcome] = found.get(outcome, 0) + 1
        else:
            state["failures"].append(f"{kind}:{number} {outcome}")
    path.write_text(json.dumps(state, indent=1))
    return state


def _columns(state: dict[str, Any]) -> list[str]:
    """Return the outcomes that happened, the good ones first."""
    happened = Counter[str]()
    for found in state["outcomes"].values():
        happened.update(found)
    return sorted(happened, key=lambda how: (how not in FINE, how))


def _in_a_process(seed: int, first: int, count: int) -> Iterator[tuple[int, str, str]]:
    """Yield number, kind and outcome of each case; where the process dies, that of the case it died of."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _be_quiet()
        resource.setrlimit(resource.RLIMIT_AS, (_taken() + MEMORY,) * 2)
        with os.fdopen(writing, "w", buffering=1) as pipe:
            for number in range(first, first + count):
                kind = kind_of(seed, number)
                pipe.write(f"{number}\t{kind}\t{_outcome(READERS[kind], seed, number)}\n")
        os._exit(0)
    os.close(writing)
    done = first
    with os.fdopen(reading) as pipe:
        for line in pipe:
            number, kind, outcome = line.rstrip("\n").split("\t", 2)
            done = int(number) + 1
            yield int(number), kind, outcome
    _, status = os.waitpid(child, 0)
    if status and done < first + count:
        yield done, kind_of(seed, done), f"died: {os.waitstatus_to_exitcode(status)}"


def kind_of(seed: int, number: int) -> str:
    """Return which reader a case is for."""
    names = [name for name, reader in READERS.items() for _ in range(reader.weight)]
    return names[int(np.random.default_rng([seed, number]).integers(len(names)))]


def _case(reader: Reader, seed: int, number: int) -> bytes:
    rng = np.random.default_rng([seed, number, 1])
    seeds = reader.seeds()
    return mutated(seeds[int(rng.integers(len(seeds)))], reader.form, rng)


def _outcome(reader: Reader, seed: int, number: int) -> str:
    """Return ``taken``, ``refused``, or what went wrong on one line."""
    with TemporaryDirectory(prefix="fuzz-readers-") as folder:
        try:
            with _in_time():
                reader.use(_case(reader, seed, number), Path(folder))
        except _TooLongError:
            return f"took more than {SECONDS} s of processor time, or {STUCK} s in all"
        except OnnxqError as error:
            if _ran_out(error):
                return "took more than there is of memory"
            return "refused" if error.exit_code in (1, 2) else _line(error)
        except OSError:
            return "refused"  # as the command line has it: exit code 2
        except BaseException as error:
            return _line(error)
    return "taken"


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _ran_out(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def _in_time() -> Iterator[None]:
    """Stop the block after SECONDS of its own or STUCK seconds, even if it swallows the exception."""
    late = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal late
        late = True
        raise _TooLongError

    timers = ((signal.SIGPROF, signal.ITIMER_PROF, SECONDS), (signal.SIGALRM, signal.ITIMER_REAL, STUCK))
    for number, timer, seconds in timers:
        signal.signal(number, stop)
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for _, timer, _ in timers:
            signal.setitimer(timer, 0)
        if late:
            raise _TooLongError


def _be_quiet() -> None:
    """Let libraries complain to nobody."""
    nobody = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nobody, 1)
    os.dup2(nobody, 2)


def _taken() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _keep(folder: Path, kind: str, seed: int, number: int) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{kind}-{number}").write_bytes(_case(READERS[kind], seed, number))


def _run_here(kind: str, seed: int, number: int) -> int:
    """Run one case with everything shown, the file left beside."""
    folder = Path(f"case-{kind}-{number}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        READERS[kind].use(_case(READERS[kind], seed, number), folder)
    except Exception as error:
        traceback.print_exc()
        return error.exit_code if isinstance(error, OnnxqError) else 3
    return 0


if __name__ == "__main__":
    main()
