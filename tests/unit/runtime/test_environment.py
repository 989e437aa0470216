"""Versions, and the message where ONNX Runtime is missing."""

import platform
import sys

import pytest

from onnxq.errors import TargetError
from onnxq.runtime.environment import import_onnxruntime, runtime_versions


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
