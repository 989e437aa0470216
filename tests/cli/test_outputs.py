"""What commands write: never over what is not theirs, and never after work that was bound to be lost."""

from pathlib import Path

import onnx
import pytest

from onnxq.files import replacing
from onnxq.testing.faults import killed_at_each


def test_compile_replaces_only_what_onnxq_wrote(onnxq, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    output.write_text("mine")
    run = ["compile", model, "-o", output, "--no-bench", "--no-validate"]
    refused = onnxq(*run)
    assert refused.exit_code == 2
    assert "it exists already, and onnxq did not write it" in refused.stderr
    assert output.read_text() == "mine"
    assert onnxq(*run, "--force").exit_code == 0
    assert onnxq(*run).exit_code == 0  # it says itself that onnxq wrote it


@pytest.mark.parametrize(
    "arguments",
    [
        ["calibrate", "MODEL", "--data", "random", "-o", "MINE"],
        ["diff", "MODEL", "COMPILED", "--html", "MINE"],
        ["inspect", "MODEL", "--html", "MINE"],
        ["report", "MANIFEST", "--html", "MINE"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_tables_and_pages_replace_only_their_own_kind(
    onnxq, model: Path, compiled: Path, tmp_path: Path, arguments: list[str]
) -> None:
    mine = tmp_path / "mine"
    mine.write_text("mine")
    places = {"MODEL": model, "COMPILED": compiled, "MANIFEST": compiled.with_suffix(".manifest.json")}
    run = [{**places, "MINE": mine}.get(word, word) for word in arguments]
    refused = onnxq(*run)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "it exists already, and onnxq did not write it" in refused.stderr
    assert mine.read_text() == "mine"
    mine.unlink()
    assert onnxq(*run).exit_code in (0, 1)  # 1: the models differ
    assert onnxq(*run).exit_code in (0, 1)  # it says itself that onnxq wrote it


def test_an_output_that_is_a_folder_is_the_callers_mistake(onnxq, model: Path, tmp_path: Path) -> None:
    for arguments in (["compile", model, "--force"], ["calibrate", model, "--data", "random"]):
        result = onnxq(*arguments, "-o", tmp_path)
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"error: {tmp_path}: this is not a file that can be replaced" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_told_before_the_work(onnxq, model: Path, tmp_path: Path) -> None:
    for folder in (tmp_path / "none", Path("/proc")):  # in /proc not even root can make a file
        result = onnxq("compile", model, "-o", folder / "out.onnx", "--print-after", "all")
        assert result.exit_code == 2
        assert f"error: {folder / 'out.onnx'}: " in result.stderr
        assert "# after pass" not in result.stderr


def test_a_model_without_anything_to_quantize_gets_no_table(onnxq, tmp_path: Path) -> None:
    model = tmp_path / "relu.onnx"
    text = '<ir_version: 10, opset_import: ["" : 21]> main (float[N,2] x) => (float[N,2] y) { y = Relu(x) }'
    onnx.save(onnx.parser.parse_model(text), model)
    for arguments in (["calibrate", model, "-o", tmp_path / "table.json"], ["sensitivity", model]):
        result = onnxq(*arguments, "--data", "random")
        assert result.exit_code == 2
        assert "relu.onnx" in result.stderr
        assert "hint: the model has nothing that it quantizes, or another recipe" in result.stderr


def test_a_dump_that_cannot_be_written_is_no_failure_of_a_pass(onnxq, model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", Path("/proc/dump")):
        run = ("compile", model, "-o", tmp_path / "out.onnx", "--no-bench", "--no-validate")
        result = onnxq(*run, "--dump", folder)
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"error: {folder}: it cannot be written" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_command_repairs_what_a_run_that_was_killed_left_and_says_so(
    onnxq, model: Path, tmp_path: Path
) -> None:
    output, older = tmp_path / "out.onnx", model.read_bytes()

    def replace() -> None:
        with replacing(tmp_path / "out.onnx.data", output) as staged:
            for path in staged:
                path.write_bytes(b"new")

    said = []
    output.write_bytes(older)
    for _ in killed_at_each(tmp_path, replace, frozenset({"os.rename"})):
        result = onnxq("inspect", output)  # any command that is given this file
        assert result.exit_code == 0, result.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]
        said.append(result.stderr.strip())
    as_before = (
        f"warning: {tmp_path}: a run was stopped while it replaced files here, which are now as they were"
    )
    assert f"{as_before} before it: out.onnx.data, out.onnx" in said
