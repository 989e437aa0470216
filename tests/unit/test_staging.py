"""Sets of files under faults: killed before every call that touches them, and with every call failing."""

import errno
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from onnxq import staging as staging_module
from onnxq.errors import InputError
from onnxq.files import replacing, replacing_folder, write_whole
from onnxq.staging import LOCK, MOVES, NEW, PREFIX, repair, staging
from onnxq.testing.faults import RENAMES, killed_at_each

OLD_SET = {"data": "old data", "model": "old model"}
NEW_SET = {"data": "new data!", "model": "new model!", "report": "new report!"}


def content(folder: Path) -> dict[str, str]:
    """Return the files of a folder with what is in them; staging folders as they are called."""
    return {path.name: path.read_text() if path.is_file() else "" for path in folder.iterdir()}


def reset(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for name, text in OLD_SET.items():
        (folder / name).write_text(text)


def write_set(folder: Path) -> None:
    with replacing(*(folder / name for name in sorted(NEW_SET, reverse=True))) as staged:
        for path in staged:
            path.write_text(NEW_SET[path.name])


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Return a folder with two files, of which the new set has three; in memory, where a sync is free."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as name:
        reset(folder := Path(name, "set"))
        yield folder


def test_killed_anywhere_the_next_run_finds_the_old_set_or_the_new_one(folder: Path) -> None:
    left, repaired = [], []
    for number in killed_at_each(folder, lambda: write_set(folder)):
        left.append(content(folder))
        with staging(folder):  # the next run
            pass
        repaired.append(content(folder))
        assert repaired[-1] in (OLD_SET, NEW_SET), number
        reset(folder)
    mixed = [
        files for files in left if {k: v for k, v in files.items() if k in NEW_SET} not in (OLD_SET, NEW_SET)
    ]
    assert len(mixed) >= len(NEW_SET) - 1  # between any two renames, it was no whole set
    assert OLD_SET in repaired
    assert NEW_SET in repaired


def test_killed_while_it_repairs_the_one_after_repairs(folder: Path) -> None:
    kills = 0
    for _ in killed_at_each(folder, lambda: write_set(folder), RENAMES):
        before = content(folder)
        for _ in killed_at_each(folder, lambda: repair(folder)):
            kills += 1
        repair(folder)
        assert content(folder) in (OLD_SET, NEW_SET), before
        reset(folder)
    assert kills > 20


def test_any_call_that_fails_is_an_error_and_leaves_the_old_set(folder: Path) -> None:
    told = folder.parent / f"{folder.name}.told"

    def work() -> None:
        try:
            write_set(folder)
        except InputError as error:
            told.write_text(str(error))

    errors = 0
    for number in killed_at_each(folder, work, error=errno.ENOSPC):
        found = {name: text for name, text in content(folder).items() if name != LOCK}
        if told.exists():
            assert "it cannot be written: No space left on device" in told.read_text(), number
            assert {k: v for k, v in found.items() if not k.startswith(PREFIX)} == OLD_SET, number
            errors += 1
            told.unlink()
        else:  # it was a call that only clears up, or a lock
            assert {k: v for k, v in found.items() if not k.startswith(PREFIX)} == NEW_SET, number
        repair(folder)
        for path in folder.glob(f"{PREFIX}*"):
            pytest.fail(f"{path.name} is left")
        (folder / LOCK).unlink(missing_ok=True)
        reset(folder)
    assert errors > 15


def test_what_was_put_back_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for _ in killed_at_each(folder, lambda: write_set(folder), frozenset({"os.rename"})):
        repair(folder)
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    stopped = (
        f"{folder}: a run was stopped while it replaced files here, which are now as they were before it"
    )
    assert f"{stopped}: report, model, data" in said
    assert any("removed what a run that was stopped had left" in text for text in said)


def test_a_run_at_work_is_left_alone(folder: Path) -> None:
    with replacing(folder / "model") as (staged,):
        staged.write_text("one")
        repair(folder)
        with replacing(folder / "model") as (other,):
            other.write_text("two")
        assert (folder / "model").read_text() == "two"
    assert content(folder) == {**OLD_SET, "model": "one"}


def test_without_hard_links_older_files_are_moved_aside(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    for number in killed_at_each(folder, lambda: write_set(folder)):
        repair(folder)
        assert {k: v for k, v in content(folder).items() if k != LOCK} in (OLD_SET, NEW_SET), number
        (folder / LOCK).unlink(missing_ok=True)
        reset(folder)


def test_a_file_that_was_written_since_is_not_put_back(folder: Path) -> None:
    for number in killed_at_each(folder, lambda: write_set(folder), RENAMES):
        (folder / "model").unlink(missing_ok=True)
        (folder / "model").write_text("somebody else's, of later")
        repair(folder)
        assert (folder / "model").read_text() == "somebody else's, of later", number
        reset(folder)


def left_behind(folder: Path, moves: str) -> Path:
    """Return a staging folder of nobody, with these moves."""
    stage = folder / f"{PREFIX}x"
    (stage / NEW).mkdir(parents=True)
    (stage / MOVES).write_text(moves)
    return stage


@pytest.mark.parametrize(
    "moves",
    [
        "{",
        "[]",
        "5",
        '{"a": 1}',
        '{"a": {}}',
        '{"": {"replaces": false, "new": [3, 4]}}',
        "\udcff",
        "[" * 10**5,
    ],
)
def test_damaged_moves_are_told_and_kept(folder: Path, moves: str, caplog: pytest.LogCaptureFixture) -> None:
    stage = left_behind(folder, moves.encode("utf-8", "surrogateescape").decode("latin-1"))
    repair(folder)
    assert "it is damaged: look into it" in caplog.text
    assert stage.is_dir()
    write_whole(folder / "model", "new")  # and nobody is kept from working


@pytest.mark.parametrize("name", ["../victim", "/victim", "link/victim"])
def test_no_moves_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    victim, inside = tmp_path / "victim", tmp_path / "inside"
    victim.write_text("mine")
    inside.mkdir()
    (inside / "link").symlink_to(tmp_path)
    found = victim.stat()
    where = name if name[0] != "/" else str(victim)
    left_behind(inside, json.dumps({where: {"replaces": False, "new": [found.st_size, found.st_mtime_ns]}}))
    repair(inside)
    assert victim.read_text() == "mine"


def test_a_folder_that_is_written_into_is_repaired_too(folder: Path) -> None:
    def work() -> None:
        with replacing_folder(folder, force=True) as new:
            (new / "sub").mkdir()
            (new / "sub" / "a").write_text("a")
            (new / "model").write_text("new model!")

    for number in killed_at_each(folder, work):
        repair(folder)
        (folder / LOCK).unlink(missing_ok=True)
        sub = folder / "sub"
        inner = content(sub) if sub.is_dir() else {}
        outer = {name: text for name, text in content(folder).items() if name != "sub"}
        assert (outer, inner) in ((OLD_SET, {}), ({**OLD_SET, "model": "new model!"}, {"a": "a"})), number
        (sub / "a").unlink(missing_ok=True)
        if sub.is_dir():
            sub.rmdir()
        reset(folder)


@pytest.mark.parametrize("turns", [40])
def test_two_runs_at_the_same_time_leave_one_of_their_sets(folder: Path, turns: int) -> None:
    def in_child(text: str) -> int:
        child = os.fork()
        if child == 0:
            try:
                for _ in range(turns):
                    with replacing(folder / "data", folder / "model") as staged:
                        for path in staged:
                            path.write_text(text)
                os._exit(0)
            finally:
                os._exit(1)
        return child

    for child in [in_child("one"), in_child("two")]:
        assert os.waitpid(child, 0)[1] == 0
    assert content(folder) in ({"data": "one", "model": "one"}, {"data": "two", "model": "two"})


def test_without_flock_sets_are_written_and_nobodys_folder_is_cleared(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging_module, "fcntl", None)
    for lacking in ("geteuid", "O_NOFOLLOW", "fsync"):
        monkeypatch.delattr(os, lacking)
    (folder / f"{PREFIX}another").mkdir()
    write_set(folder)
    repair(folder)
    assert content(folder) == {**NEW_SET, f"{PREFIX}another": ""}


def test_the_module_is_imported_where_there_is_no_fcntl() -> None:
    code = "import sys; sys.modules['fcntl'] = None; import onnxq.cli.app, onnxq.files"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
