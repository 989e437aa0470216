import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from onnxq.errors import InputError
from onnxq.files import replacing, replacing_folder, write_whole


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """Let every file of this process end at ``limit`` bytes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Take the right to write into ``folder`` away, from root too by being somebody else."""
    folder.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o755)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_and_bytes_are_written(tmp_path: Path) -> None:
    write_whole(tmp_path / "t", "größe")
    write_whole(tmp_path / "b", b"\x00")
    assert (tmp_path / "t").read_text(encoding="utf-8") == "größe"
    assert (tmp_path / "b").read_bytes() == b"\x00"
    assert names(tmp_path) == ["b", "t"]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the folder to write into does not exist") as caught:
        write_whole(tmp_path / "no" / "file", "x")
    assert caught.value.hint == f"make it first: mkdir -p {tmp_path / 'no'}"


def test_a_device_or_folder_is_not_replaced(tmp_path: Path) -> None:
    for path in (Path("/dev/null"), tmp_path):
        with pytest.raises(InputError, match="this is not a file that can be replaced"):
            write_whole(path, "x")
    assert Path("/dev/null").is_char_device()


def test_a_read_only_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with (
        read_only(tmp_path),
        pytest.raises(InputError, match="it cannot be written: Permission denied") as caught,
    ):
        write_whole(tmp_path / "file", "new")
    assert "check the folder's permissions" in str(caught.value.hint)
    assert (tmp_path / "file").read_text() == "old"


def test_a_full_disk_is_an_error_and_leaves_the_older_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with full_disk(1000), pytest.raises(InputError, match="it cannot be written: File too large"):
        write_whole(tmp_path / "file", b"x" * 2000)
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_an_interrupt_leaves_the_older_files(tmp_path: Path) -> None:
    for name in ("data", "model"):
        (tmp_path / name).write_text("old")

    def write_half() -> None:
        with replacing(tmp_path / "data", tmp_path / "model") as (data, _):
            data.write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert names(tmp_path) == ["data", "model"]
    assert (tmp_path / "data").read_text() == (tmp_path / "model").read_text() == "old"


@pytest.mark.parametrize("older", [True, False])
def test_files_are_replaced_together_or_not_at_all(tmp_path: Path, older: bool) -> None:
    if older:
        (tmp_path / "data").write_text("old")

    def fail_between_the_renames() -> None:
        with replacing(tmp_path / "data", tmp_path / "model") as (data, model):
            data.write_text("new")
            model.write_text("new")
            (tmp_path / "model").mkdir()  # no file can be renamed onto a folder

    with pytest.raises(InputError, match="it cannot be written: Is a directory"):
        fail_between_the_renames()
    assert names(tmp_path) == (["data", "model"] if older else ["model"])
    assert not older or (tmp_path / "data").read_text() == "old"


def test_a_folder_is_written_whole(tmp_path: Path) -> None:
    with replacing_folder(tmp_path / "deep" / "out") as folder:
        (folder / "a").write_text("a")
        assert not (tmp_path / "deep" / "out").exists()
    assert names(tmp_path / "deep") == ["out"]
    assert names(tmp_path / "deep" / "out") == ["a"]


def test_an_interrupt_leaves_no_folder(tmp_path: Path) -> None:
    def write_half() -> None:
        with replacing_folder(tmp_path / "out") as folder:
            (folder / "a").write_text("a")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert names(tmp_path) == []


def test_a_folder_with_files_needs_force(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("keep")
    with (
        pytest.raises(InputError, match="the folder is not empty") as caught,
        replacing_folder(tmp_path / "out"),
    ):
        pass
    assert caught.value.hint == "name a new folder, or use --force"
    with replacing_folder(tmp_path / "out", force=True) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("new")
    assert names(tmp_path / "out") == ["mine", "sub"]
    assert (tmp_path / "out" / "mine").read_text() == "keep"


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(InputError, match="this is not a folder"), replacing_folder(tmp_path / "out"):
        pass


def test_a_folder_that_vanishes_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()

    def work() -> None:
        with replacing(folder / "file") as (staged,):
            shutil.rmtree(folder)
            staged.write_text("new")

    with pytest.raises(InputError, match="it cannot be written: No such file or directory"):
        work()
    assert names(tmp_path) == []


def test_another_file_that_fails_meanwhile_is_named(tmp_path: Path) -> None:
    def work() -> None:
        with replacing(tmp_path / "file"):
            (tmp_path / "gone").read_text()

    with pytest.raises(InputError, match=rf"No such file or directory, because of {tmp_path}/gone"):
        work()


def test_really_no_space_left_is_an_error_and_leaves_the_older_file(tmp_path: Path) -> None:
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "x", tmp_path]).returncode
    ):
        pytest.skip("only root can mount a small disk, and not everywhere")
    try:
        (tmp_path / "file").write_text("old")
        with pytest.raises(InputError, match="it cannot be written: No space left on device"):
            write_whole(tmp_path / "file", b"x" * (1 << 17))
        assert (tmp_path / "file").read_text() == "old"
        assert names(tmp_path) == ["file"]
    finally:
        subprocess.run(["umount", tmp_path], check=True)
