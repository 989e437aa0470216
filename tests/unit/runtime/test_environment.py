"""Versions, processor flags, and the message where ONNX Runtime is missing."""

import platform
import sys
from pathlib import Path

import pytest

from onnxq.errors import TargetError
from onnxq.runtime.environment import CPU_FLAGS, cpu_flags, import_onnxruntime, runtime_versions


def test_a_missing_onnxruntime_names_the_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # what Python itself does for a blocked import
    with pytest.raises(TargetError, match="ONNX Runtime is not installed") as caught:
        import_onnxruntime()
    assert "onnxq[cpu]" in (caught.value.hint or "")
    assert "onnxq[cuda]" in (caught.value.hint or "")
    assert caught.value.exit_code == 2


def test_versions_say_what_ran() -> None:
    ort = import_onnxruntime()
    versions = runtime_versions()
    assert versions["onnxruntime"] == ort.__version__
    assert "CPUExecutionProvider" in versions["providers"]
    assert versions["python"] == platform.python_version()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_vnni\nbugs : spectre\n", ("avx2", "avx512_vnni", "avx512f")),
        ("Features\t: fp asimd asimddp crc32\n", ("asimd", "asimddp")),
        ("processor\t: 0\n", ()),
    ],
)
def test_flags_are_read_from_cpuinfo(tmp_path: Path, text: str, expected: tuple[str, ...]) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(text, encoding="utf-8")
    assert cpu_flags(file) == expected


def test_without_cpuinfo_numpy_tells_the_flags(tmp_path: Path) -> None:
    flags = cpu_flags(tmp_path / "none")
    assert flags
    assert list(flags) == sorted(flags)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/cpuinfo is Linux's")
def test_this_machine_has_known_flags() -> None:
    assert set(cpu_flags()) <= CPU_FLAGS
