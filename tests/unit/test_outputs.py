"""What a compilation may replace: from Python as from the command line, nothing is lost."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxq.calibration.data import DataOptions, input_specs, open_data
from onnxq.comparison import CompileOptions
from onnxq.compile import compile_model
from onnxq.errors import InputError
from onnxq.ir.store import load_model
from onnxq.manifest import failed_path, manifest_path, report_path
from onnxq.outputs import Outputs
from onnxq.recipe import load_recipe

QUIET = CompileOptions(validate=False, bench=False, tune=False, choose=False)
FOREIGN = "it exists already, and onnxq did not write it"
READ = "this is being read"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a model with one input ``x``, float32 (N, 32), and its weight in a data file."""
    weight = numpy_helper.from_array(np.eye(32, dtype=np.float32), "w")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 32]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weight]
    )
    path = tmp_path / "in" / "net.onnx"
    path.parent.mkdir()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, path, save_as_external_data=True, location="net.data")
    return path


def compiled(source: Path, output: Path, **more: object) -> None:
    compile_model(source, output, recipe=load_recipe("fp32"), options=QUIET, **more)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refused(match: str, work: Callable[[], object], folder: Path) -> None:
    """Require that ``work`` is refused, and that no file was touched by it."""
    before = contents(folder)
    with pytest.raises(InputError, match=match):
        work()
    assert contents(folder) == before


def test_only_the_suffix_onnx_gives_way() -> None:
    for place, suffix in (
        (manifest_path, "manifest.json"),
        (report_path, "report.md"),
        (failed_path, "failed"),
    ):
        assert place(Path("a/net.int8.onnx")) == Path(f"a/net.int8.{suffix}")
        assert place(Path("a/net.fp16")) == Path(f"a/net.fp16.{suffix}")


def test_two_models_do_not_share_a_manifest(source: Path, tmp_path: Path) -> None:
    compiled(source, tmp_path / "net.onnx")
    refused("it is the manifest of 'net.onnx'", lambda: compiled(source, tmp_path / "net"), tmp_path)
    compiled(source, tmp_path / "net", force=True)


@pytest.mark.parametrize("name", ["out.onnx", "out.manifest.json", "out.report.md"])
def test_files_of_others_are_replaced_with_force_only(source: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    refused(FOREIGN, lambda: compiled(source, tmp_path / "out.onnx"), tmp_path)
    compiled(source, tmp_path / "out.onnx", force=True)
    compiled(source, tmp_path / "out.onnx")  # now all are onnxq's


@pytest.mark.parametrize("name", ["out.onnx", "out.manifest.json", "out.report.md"])
def test_onnxqs_files_of_other_kinds_are_not_replaced(source: Path, tmp_path: Path, name: str) -> None:
    compiled(source, tmp_path / "x.onnx")
    for other in ("x.onnx", "x.manifest.json", "x.report.md"):
        if other.partition(".")[2] != name.partition(".")[2]:
            (tmp_path / name).write_bytes((tmp_path / other).read_bytes())
            refused(FOREIGN, lambda: compiled(source, tmp_path / "out.onnx"), tmp_path)


def symlink(path: Path, target: Path) -> None:
    path.symlink_to(target)


def hard_link(path: Path, target: Path) -> None:
    path.hardlink_to(target)


def relative_link(path: Path, target: Path) -> None:
    path.symlink_to(os.path.relpath(target, path.parent))


@pytest.mark.parametrize("link", [symlink, hard_link, relative_link])
@pytest.mark.parametrize("name", ["out.onnx", "out.manifest.json", "out.report.md"])
def test_the_source_is_never_replaced_by_another_name_either(
    source: Path, tmp_path: Path, name: str, link: Callable[[Path, Path], None]
) -> None:
    link(tmp_path / name, source)
    refused(READ, lambda: compiled(source, tmp_path / "out.onnx", force=True), tmp_path)


def test_the_source_may_be_called_as_a_manifest_is(source: Path, tmp_path: Path) -> None:
    for name in ("out.manifest.json", "out.report.md"):
        mine = source.rename(source.with_name(name))
        refused(READ, lambda: compiled(mine, mine.with_name("out.onnx"), force=True), tmp_path)  # noqa: B023
        mine.rename(source)


def test_the_data_of_the_source_are_not_replaced(source: Path, tmp_path: Path) -> None:
    data = source.with_name("net.data")
    for output in (data, source.parent / ".." / "in" / data.name):
        refused(READ, lambda: compiled(source, output, force=True), tmp_path)  # noqa: B023


def test_data_and_what_lies_among_them_are_not_replaced(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    folder.mkdir()
    np.save(folder / "a.npy", np.zeros((2, 32), np.float32))
    specs = input_specs(load_model(source).model)
    whole, one = (open_data(str(path), specs) for path in (folder, folder / "a.npy"))
    for data in (whole, one):
        refused(READ, lambda: compiled(source, folder / "a.npy", data=data, force=True), tmp_path)  # noqa: B023
        refused(READ, lambda: compiled(source, folder / "a.npy", validation_data=data, force=True), tmp_path)  # noqa: B023
    compiled(source, folder / "out.onnx", data=one)
    compiled(source, folder / "out.onnx", data=one)  # what onnxq wrote is no data


def test_what_lies_beside_the_model_is_not_replaced(source: Path, tmp_path: Path) -> None:
    (source.parent / "tokenizer.json").write_text("{}")
    options = DataOptions(model_dir=source.parent)
    data = open_data("random", input_specs(load_model(source).model), options)
    output = source.parent / "tokenizer.json"
    refused(READ, lambda: compiled(source, output, data=data, force=True), tmp_path)


def test_other_inputs_can_be_named(source: Path, tmp_path: Path) -> None:
    (tmp_path / "table").write_text("{}")
    table = tmp_path / "table"
    refused(READ, lambda: compiled(source, table, inputs=[table], force=True), tmp_path)


def test_a_data_file_is_replaced_only_with_the_model_that_it_belongs_to(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxq.ir.store.EMBEDDED_LIMIT", 1)
    output, data = tmp_path / "out.onnx", tmp_path / "out.onnx.data"
    data.write_text("mine")
    refused(FOREIGN, lambda: compiled(source, output), tmp_path)
    data.unlink()
    compiled(source, output)
    assert [path.name for path in Outputs(output, ()).files(load_model(output))][2:] == [
        data.name,
        output.name,
    ]
    compiled(source, output)
    output.unlink()
    refused(FOREIGN, lambda: compiled(source, output), tmp_path)
