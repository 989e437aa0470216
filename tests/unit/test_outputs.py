"""What a compilation may replace: from Python as from the command line, nothing is lost."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxq.calibration.data import DataOptions, Dataset, input_specs, open_data
from onnxq.comparison import CompileOptions
from onnxq.compile import calibrate_model, compile_model
from onnxq.errors import InputError, ModelError
from onnxq.ir.module import GraphModule
from onnxq.ir.store import load_model, model_digest
from onnxq.manifest import failed_path, manifest_path, report_path
from onnxq.outputs import Outputs
from onnxq.passmanager.base import Pass
from onnxq.passmanager.instruments import Instrument
from onnxq.recipe import load_recipe
from onnxq.staging import repair
from onnxq.story import read_story
from onnxq.testing.faults import RENAMES, killed_at_each

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


def compiled(
    source: Path,
    output: Path,
    data: Dataset | None = None,
    instruments: Sequence[Instrument] = (),
    **changed: object,
) -> None:
    """Compile with options that are not the quiet ones."""
    options = replace(QUIET, **changed)
    compile_model(
        source, output, recipe=load_recipe("fp32"), data=data, instruments=instruments, options=options
    )


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


@pytest.mark.parametrize("name", ["", "a/b", 3, None, []])
def test_a_damaged_manifest_belongs_to_no_other_model(source: Path, tmp_path: Path, name: object) -> None:
    compiled(source, tmp_path / "net.onnx")
    manifest = manifest_path(tmp_path / "net.onnx")
    content = json.loads(manifest.read_text())
    content["output"]["name"] = name
    manifest.write_text(json.dumps(content, indent=1) + "\n")
    compiled(source, tmp_path / "net.onnx")


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
    refused(READ, lambda: compiled(source, table, also_read=(table,), force=True), tmp_path)


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


@dataclass
class Meanwhile(Instrument):
    """Does something to a file in the middle of a compilation."""

    path: Path
    change: Callable[[Path], object]

    def before(self, module: GraphModule, pass_: Pass, index: int) -> None:
        if index == 1:
            self.change(self.path)


def grown(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0" * 8)


def replaced(path: Path) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes()[:-1] + b"\1")
    other.rename(path)


def changed_in_place(path: Path) -> None:
    """Change one byte, and hide it."""
    was = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\1")
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))


@pytest.mark.parametrize("name", ["net.onnx", "net.data"])
@pytest.mark.parametrize("change", [grown, replaced, changed_in_place, Path.unlink])
def test_a_source_that_changes_meanwhile_is_noticed(
    source: Path, tmp_path: Path, name: str, change: Callable[[Path], object]
) -> None:
    watch = Meanwhile(source.with_name(name), change)
    with pytest.raises(ModelError, match="it has changed while it was worked on"):
        compiled(source, tmp_path / "out.onnx", instruments=[watch])
    assert not list(tmp_path.glob("*out*"))


def test_a_source_that_is_only_touched_is_no_other(source: Path, tmp_path: Path) -> None:
    compiled(source, tmp_path / "out.onnx", instruments=[Meanwhile(source, Path.touch)])
    written = json.loads((tmp_path / "out.manifest.json").read_text())
    assert written["source"]["digest"] == model_digest(source)


def test_a_table_is_of_a_source_that_did_not_change(source: Path, tmp_path: Path) -> None:
    data = open_data("random", input_specs(load_model(source).model), DataOptions(limit=4))

    def on_progress(stage: str, done: int, total: int | None) -> None:
        if stage == "calibrating":
            changed_in_place(source.with_name("net.data"))

    with pytest.raises(ModelError, match="it has changed while it was worked on"):
        calibrate_model(source, data, recipe=load_recipe("cpu"), on_progress=on_progress)


def test_a_model_whose_name_is_not_utf8_is_refused_before_the_work(source: Path, tmp_path: Path) -> None:
    strange = tmp_path / os.fsdecode(b"net-\xff.onnx")
    refused("opens no model whose name is not UTF-8", lambda: compiled(source, strange), tmp_path)
    source.rename(strange)
    refused(
        "opens no model whose name is not UTF-8", lambda: compiled(strange, tmp_path / "o.onnx"), tmp_path
    )


def test_data_may_be_called_as_they_like(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode("daten für-".encode() + b"\xff")
    folder.mkdir()
    np.save(folder / os.fsdecode(b"a-\xfe.npy"), np.eye(32, dtype=np.float32))
    data = open_data(str(folder), input_specs(load_model(source).model))
    compile_model(source, tmp_path / "out.onnx", recipe=load_recipe("cpu"), data=data, options=QUIET)
    written = json.loads((tmp_path / "out.manifest.json").read_text())
    assert written["data"]["name"] == f"{tmp_path}/daten für-\\xff"
    used = read_story(tmp_path / "out.manifest.json").manifest.data
    assert used is not None
    assert used.name == written["data"]["name"]


def test_a_compilation_that_is_killed_leaves_the_old_set_or_the_new_one(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    compiled(source, folder / "out.onnx")
    older = contents(folder)
    found = set()
    for _ in killed_at_each(folder, lambda: compiled(source, folder / "out.onnx"), RENAMES):
        repair(folder)
        now = contents(folder)
        assert now.keys() == older.keys()
        manifest = json.loads(now[f"{folder}/out.manifest.json"])
        assert manifest["output"]["digest"] == model_digest(folder / "out.onnx")
        found.add(now == older)
        for name, content in older.items():
            Path(name).write_bytes(content)
    assert found == {True, False}  # the newer manifest has other seconds in it
