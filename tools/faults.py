"""Inject faults into everything that writes: kills, errors and full disks at each call; count what is lost.

Each piece of work replaces an older set of files by a new one, and is stopped once before each of its calls
for files in that folder, in a process that really dies: open, rename, link, unlink, mkdir, rmdir and fsync,
in whole commands rename, link and unlink. Then the next run begins. What may be found is the older set,
whole, or the new one, and nothing else.

    TMPDIR=/dev/shm python tools/faults.py > docs/measurements/avx2/faults.txt

The folder decides the time alone: on a disk each of thousands of syncs waits.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from measuring import parser, show

from onnxq.cli.app import make_app
from onnxq.digits import DIGITS_MODEL
from onnxq.files import replacing, replacing_folder
from onnxq.ir.module import GraphModule
from onnxq.ir.store import load_model, save_model
from onnxq.ir.text import parse
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.recipe import load_recipe
from onnxq.runtime.environment import import_onnxruntime
from onnxq.staging import repair
from onnxq.testing.faults import CALLS, RENAMES, killed_at_each

Files = dict[str, bytes]
MLP = """
<ir_version: 10, opset_import: ["" : 21]>
mlp (float[N,16] x) => (float[N,4] y)
<float[16,16] a = {A}, float[16,4] b = {B}>
{ h = MatMul(x, a) r = Relu(h) y = MatMul(r, b) }
"""


@dataclass
class Work:
    """Something that replaces files, and what it was found to leave.

    Args:
        name: What it is.
        folder: Where it writes.
        older: Makes the older set, in a process of its own.
        newer: Makes the new one.
        errors: What a call fails with.
        calls: What is counted as a call.
        steps: Into how many parts the longest file is cut by limits on what can be written.

    """

    name: str
    folder: Path
    older: Callable[[], object]
    newer: Callable[[], object]
    errors: Sequence[int] = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS)
    calls: frozenset[str] = CALLS
    steps: int = 40
    counts: Counter[str] = field(default_factory=Counter)

    def prepare(self) -> None:
        """Make both sets once, to know them."""
        clear(self.folder)
        in_child(self.older)
        self.old = contents(self.folder)
        in_child(self.newer)
        self.new = contents(self.folder)
        if not self.old or self.old.keys() != self.old.keys() & self.new.keys() or self.old == self.new:
            raise SystemExit(f"{self.name}: there is nothing to tell the two sets apart by")
        self.reset()

    def reset(self) -> None:
        """Put the older set back."""
        clear(self.folder)
        for name, content in self.old.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_bytes(content)

    def judge(self) -> None:
        """Begin the next run, and count what is found."""
        self.counts["faults"] += 1
        mixed = self._set_of(visible(self.folder)) is None
        repair(self.folder)
        found = contents(self.folder)
        self.counts[self._set_of(found) or "lost"] += 1
        self.counts["repaired"] += mixed
        self.reset()

    def _set_of(self, found: Files) -> str | None:
        if found == self.old:
            return "older set"
        return "new set" if found.keys() == self.new.keys() and self._is_new(found) else None

    def _is_new(self, found: Files) -> bool:
        """Tell whether these are the new files; a manifest or page has seconds in it, which differ."""
        timed = (".manifest.json", ".report.md")
        same = all(found[name] == self.new[name] for name in found if not name.endswith(timed))
        return same and all(found[name] != self.old.get(name) for name in found if name.endswith(timed))


def contents(folder: Path) -> Files:
    """Return all files of a folder, whatever they are called."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def visible(folder: Path) -> Files:
    """Return the files of a folder that a user sees."""
    return {name: content for name, content in contents(folder).items() if not name.startswith(".onnxq")}


def clear(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def in_child(work: Callable[[], object]) -> int:
    """Do the work in a process of its own, and return how it ended."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = int(work() or 0)
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def kill_at_each_call(work: Work) -> None:
    for _ in killed_at_each(work.folder, work.newer, work.calls):
        work.judge()


def fail_at_each_call(work: Work) -> None:
    for number in work.errors:
        for _ in killed_at_each(work.folder, work.newer, work.calls, number):
            work.judge()


def kill_the_repair(work: Work) -> None:
    """Kill between the renames, then kill each repair of that at each of its own calls."""
    renames = frozenset({"os.rename", "os.link"})
    for _ in killed_at_each(work.folder, work.newer, renames):
        for _ in killed_at_each(work.folder, lambda: repair(work.folder), work.calls):
            work.counts["faults"] += 1
        work.counts["faults"] -= 1
        work.judge()


def limits(work: Work) -> list[int]:
    """Return sizes that the longest file exceeds."""
    longest = max(map(len, work.new.values()))
    return sorted({longest * step // work.steps for step in range(work.steps)})


def kill_in_writes(work: Work) -> None:
    """Let the process die in the write that would make a file longer than so many bytes."""
    for limit in limits(work):

        def limited(limit: int = limit) -> object:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            return work.newer()

        in_child(limited)
        work.judge()


def fill_the_disk(work: Work) -> None:
    """Let no file grow beyond so many bytes, as on a full disk; the process goes on with the error."""
    for limit in limits(work):

        def limited(limit: int = limit) -> object:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            return work.newer()

        in_child(limited)
        work.judge()


FAULTS: dict[str, Callable[[Work], None]] = {
    "killed before each call": kill_at_each_call,
    "each call fails": fail_at_each_call,
    "killed, the repair killed too": kill_the_repair,
    "killed within a write": kill_in_writes,
    "disk full": fill_the_disk,
}


def works(folder: Path) -> Iterator[Work]:
    """Yield everything that writes."""
    files = [folder / "out" / name for name in ("a.report", "b.manifest", "c.data", "d.model")]

    def replace(text: str) -> None:
        with replacing(*files) as staged:
            for path in staged:
                path.write_text(text * 1000)

    def replace_folder(text: str) -> None:
        with replacing_folder(folder / "out", force=True) as new:
            for name in ("model.onnx", "sub/config.json"):
                (new / name).parent.mkdir(exist_ok=True)
                (new / name).write_text(text * 1000)

    yield Work("a set of four files", folder / "out", lambda: replace("old"), lambda: replace("new"))
    yield Work(
        "files of a folder", folder / "out", lambda: replace_folder("old"), lambda: replace_folder("new")
    )
    yield from commands(folder)


def commands(folder: Path) -> Iterator[Work]:
    """Yield the commands that write, each with two ways to run it."""
    for module in ("compile", "calibration.data", "diff.models", "diff.picture", "report.page.write"):
        import_module(f"onnxq.{module}")  # here once, and not in each of many children
    parse_pipeline(load_recipe("cpu").pipeline)
    import_onnxruntime()
    out, other = folder / "out", folder / "other.onnx"
    model, data = folder / "mlp.onnx", folder / "data.npz"
    rng = np.random.default_rng(0)
    weights = {"{A}": rng.normal(size=256), "{B}": rng.normal(size=64)}
    text = MLP
    for place, values in weights.items():
        text = text.replace(place, "{" + ", ".join(f"{value:.4f}" for value in values) + "}")
    save_model(parse(text), model)
    save_model(GraphModule(load_model(DIGITS_MODEL).model), other)
    np.savez(data, x=rng.normal(size=(24, 16)).astype(np.float32))
    quick = ("--no-tune", "--no-choose", "--no-bench", "--no-validate")
    run = ("compile", model, "-o", out / "m.onnx", "--data", data, *quick)
    yield command("onnxq compile", out, run, (*run, "--set", "encode-activations.method=mse"))
    run = ("calibrate", model, "-o", out / "t.json", "--data", data)
    yield command("onnxq calibrate", out, run, (*run, "--limit", "8"))
    yield command(
        "onnxq diff --html",
        out,
        ("diff", model, model, "--html", out / "p.html"),
        ("diff", model, other, "--html", out / "p.html"),
    )


def command(name: str, folder: Path, *runs: tuple[object, ...]) -> Work:
    app = make_app()

    def work(arguments: tuple[object, ...]) -> Callable[[], object]:
        def run() -> object:
            sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
            return app([str(argument) for argument in arguments], standalone_mode=False)

        return run

    older, newer = map(work, runs)
    return Work(name, folder, older, newer, (errno.ENOSPC,), RENAMES, steps=8)  # these take longer


def main() -> None:
    args = parser(__doc__).parse_args()
    logging.getLogger("onnxq").disabled = True  # each repair says what it did
    rows = []
    with TemporaryDirectory() as name:
        for work in works(Path(name)):
            work.prepare()
            for fault, inject in FAULTS.items():
                work.counts.clear()
                inject(work)
                keys = ("faults", "older set", "new set", "repaired", "lost")
                rows.append({"work": work.name, "fault": fault, **{key: work.counts[key] for key in keys}})
    total, lost = (sum(int(str(row[key])) for row in rows) for key in ("faults", "lost"))
    notes = [
        f"{total} faults; sets of files that were lost or mixed after the next run: {lost}.",
        "repaired: what lay there was no whole set until the next run put the older one back. "
        "Where the repair is killed too, sets are counted after the last of them.",
    ]
    show("Faults injected at every call that touches what is written", rows, notes, as_json=args.json)
    raise SystemExit(lost > 0)


if __name__ == "__main__":
    main()
