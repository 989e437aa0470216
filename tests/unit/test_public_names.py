"""The front door: every public name is there, and importing onnxq costs nothing."""

import subprocess
import sys

import pytest

import onnxq


@pytest.mark.parametrize("name", onnxq.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(onnxq, name).__module__.startswith("onnxq.")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        _ = onnxq.quantise


def test_importing_onnxq_imports_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "onnx", "onnx_ir", "onnxruntime", "numpy", "pydantic"}
    code = f"import sys, onnxq; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
