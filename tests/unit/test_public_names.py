"""The front door: every public name is there, and importing onnxq costs nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

import onnxq


@pytest.mark.parametrize("name", onnxq.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(onnxq, name).__module__.startswith("onnxq.")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        _ = onnxq.quantise


def test_paths_may_be_text(tmp_path: Path) -> None:
    from onnxq.ir.text import parse

    source, output = str(tmp_path / "source.onnx"), str(tmp_path / "output.onnx")
    text = '<ir_version: 10, opset_import: ["" : 21]> main (float[N,4] x) => (float[N,4] y) { y = Relu(x) }'
    onnxq.save_model(parse(text), source)
    options = onnxq.CompileOptions(validate=False, bench=False)
    onnxq.compile_model(source, output, recipe=onnxq.load_recipe("fp32"), options=options)
    assert onnxq.load_model(output).graph.node(0).op_type == "Relu"
    assert not onnxq.diff_models(source, output).unaligned
    assert onnxq.read_story(str(tmp_path / "output.manifest.json")).manifest.recipe.name == "fp32"


def test_importing_onnxq_imports_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "onnx", "onnx_ir", "onnxruntime", "numpy", "pydantic"}
    code = f"import sys, onnxq; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
