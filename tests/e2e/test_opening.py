"""What is written opens in ONNX Runtime, also where nobody asks for a comparison."""

from pathlib import Path

import onnx
import pytest

from onnxq import CompileOptions, compile_model, load_recipe
from onnxq.errors import ModelError, PassError
from onnxq.ir.module import GraphModule
from onnxq.passmanager.base import Pass, PassRecord
from onnxq.passmanager.instruments import Instrument

QUIET = CompileOptions(validate=False, bench=False, choose=False, tune=False)


class RaiseBlindly(Instrument):
    """Raises the operator set beyond the kernels, after the last pass, as a faulty pass may."""

    def after(self, module: GraphModule, pass_: Pass, index: int, record: PassRecord) -> None:
        if index == last_of("fp32"):
            module.model.opset_imports[""] = 23


def last_of(recipe: str) -> int:
    from onnxq.passmanager.pipeline import parse_pipeline

    return len(parse_pipeline(load_recipe(recipe).pipeline)) - 1


def written(folder: Path, body: str) -> Path:
    header = '<ir_version: 10, opset_import: ["" : 21, "own" : 1]>'
    onnx.save(onnx.parser.parse_model(f"{header} main (float[2,3,4] x) => ({body}"), folder / "model.onnx")
    return folder / "model.onnx"


def test_a_result_that_does_not_open_is_our_fault_and_is_not_kept(tmp_path: Path) -> None:
    source = written(tmp_path, "float[2,3,1] y) { y = GlobalLpPool(x) }")
    recipe, output = load_recipe("fp32"), tmp_path / "out.onnx"
    compile_model(source, output, recipe=recipe, options=QUIET)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(PassError, match=r"does not open, though its source does: .*GlobalLpPool") as caught:
        compile_model(source, output, recipe=recipe, options=QUIET, instruments=[RaiseBlindly()])
    assert caught.value.where == str(output)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_source_that_does_not_open_is_not_compiled(tmp_path: Path) -> None:
    source = written(tmp_path, "float[2,3,4] y) { y = own.Op(x) }")
    with pytest.raises(ModelError, match="ONNX Runtime cannot load it") as caught:
        compile_model(source, tmp_path / "out.onnx", recipe=load_recipe("fp32"), options=QUIET)
    assert caught.value.where == str(source)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_for_a_provider_that_is_not_here_the_rest_is_done(tmp_path: Path) -> None:
    from onnxq.runtime.session import usable_provider

    if usable_provider("cuda") is not None:
        pytest.skip("CUDA is here")
    source = written(tmp_path, "float[2,3,4] y) { y = own.Op(x) }")
    result = compile_model(source, tmp_path / "out.onnx", recipe=load_recipe("cuda"), options=QUIET)
    assert result.output.is_file()
    assert any(
        warning.startswith("neither opened nor compared here:") for warning in result.manifest.warnings
    )
