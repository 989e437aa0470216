"""A gate is measured, or the exit code says that it was not."""

from pathlib import Path

import onnx


def test_a_drop_of_no_metric_is_refused(onnxq, model: Path, compiled: Path, data: Path) -> None:
    result = onnxq("validate", model, compiled, "--data", data, "--max-drop", "1")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "error: gate max-drop: it needs a task metric" in result.stderr


def test_a_gated_build_is_repeated_without_comparing_again(
    onnxq, model: Path, data: Path, tmp_path: Path
) -> None:
    first, again = tmp_path / "first.onnx", tmp_path / "again.onnx"
    gated = ("--data", data, "--min-cosine", "0.9", "--no-bench")
    assert onnxq("compile", model, "-o", first, *gated).exit_code == 0
    manifest = first.with_suffix(".manifest.json")
    quiet = ("--no-validate", "--no-bench")
    repeated = onnxq("compile", model, "-o", again, "--recipe", manifest, "--data", data, *quiet)
    assert repeated.exit_code == 0
    assert "warning: the recipe's gates were not measured, as asked" in repeated.stderr
    assert again.read_bytes() == first.read_bytes()


def test_a_gate_is_missed_where_random_inputs_do_not_run(onnxq, tmp_path: Path) -> None:
    """The table has two rows, and random indices go further."""
    model = tmp_path / "model.onnx"
    text = (
        '<ir_version: 10, opset_import: ["" : 21]> main (int64[N] x) => (float[N,2] y) '
        "<float[2,2] w = {1,2,3,4}> { y = Gather(w, x) }"
    )
    onnx.save(onnx.parser.parse_model(text), model)
    result = onnxq("compile", model, "-o", tmp_path / "out.onnx", "--min-cosine", "0.9")
    assert result.exit_code == 1
    assert "no gate could be measured, as the models were not compared" in result.stderr
