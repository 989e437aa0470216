"""GPUs and their libraries, as far as they can be looked for; the tool is a script that answers."""

from pathlib import Path

import pytest

from onnxq.runtime import gpu as module
from onnxq.runtime.gpu import LIBRARIES, Device, gpu, has_device, memory_in_use
from onnxq.runtime.session import usable_provider


def with_tool(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    tool = folder / module.TOOL
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_without_a_driver_there_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu().devices == ()
    assert not has_device()
    assert memory_in_use() is None
    assert usable_provider("cuda") is None
    assert usable_provider("tensorrt") is None
    assert usable_provider("cpu") == "cpu"


def test_a_driver_that_fails_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_tool(tmp_path, monkeypatch, "echo 'No devices were found'; exit 6")
    assert gpu().devices == ()


def test_what_the_driver_says_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = (
        'case "$1" in *memory.used*) echo 512;; *=name) echo card;; *) echo "card, 570.1, 9.0, 81559";; esac'
    )
    with_tool(tmp_path, monkeypatch, answers)
    assert gpu().devices == (Device("card", "570.1", "9.0", 81559),)
    assert has_device()
    assert memory_in_use() == 512 * 2**20


def test_a_device_without_memory_of_its_own_is_no_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = 'case "$1" in *memory.used*) echo "[N/A]";; *) echo "card, 570.1, 12.1, [N/A]";; esac'
    with_tool(tmp_path, monkeypatch, answers)
    assert gpu().devices == (Device("card", "570.1", "12.1", None),)
    assert memory_in_use() is None


def test_missing_libraries_are_told_with_what_brings_them() -> None:
    found = gpu()
    assert found.libraries.keys() == LIBRARIES.keys()
    assert found.missing == {
        name: LIBRARIES[name] for name, place in found.libraries.items() if place is None
    }
    assert found.to_dict()["missing"] == found.missing
