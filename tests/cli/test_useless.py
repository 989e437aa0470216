"""A result that is useless is never handed out without a word: float is kept, or the answer is no."""

from pathlib import Path

import numpy as np
import onnx
import pytest

TEXT = """
<ir_version: 10, opset_import: ["" : 17]>
main (float[N,3] x) => (float[N,2] y)
<float[3,2] w = {0, 0, 1, -1, 0.5, 2}>
{
    y = MatMul(x, w)
}
"""
QUICK = ("--no-choose", "--no-bench")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a product that does not read the largest part of its input."""
    path = tmp_path / "model.onnx"
    onnx.save(onnx.parser.parse_model(TEXT), path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return samples whose first column makes a step of 1e4 / 255 = 39, which rounds all else to 0."""
    x = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    x[:, 0] = 1e4
    np.savez(tmp_path / "data.npz", x=x)
    return tmp_path / "data.npz"


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


def test_layers_stay_in_float_where_int8_is_useless(onnxq, model: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    result = onnxq("compile", model, "-o", output, "--data", data, *QUICK)
    assert result.exit_code == 0
    told = " ".join(result.stderr.split())
    assert "output 'y' has an SQNR of 0.0 dB on 16 samples, and 16.0 dB is the floor" in told
    assert "(--min-sqnr off takes it as it is): kept all layers in float" in told
    assert operators(output) == {"MatMul"}
    assert "layers in float" in output.with_suffix(".report.md").read_text()


def test_a_gate_of_ones_own_takes_the_result_as_it_is(onnxq, model: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    result = onnxq("compile", model, "-o", output, "--data", data, *QUICK, "--min-sqnr", "off")
    assert result.exit_code == 0
    assert "is far from the source's, with a cosine of 0.0" in result.stderr
    assert "QuantizeLinear" in operators(output)


def test_what_was_asked_for_by_name_is_written_but_the_answer_is_no(
    onnxq, model: Path, data: Path, tmp_path: Path
) -> None:
    """``portable`` promises integers to some other runtime: float would be no answer to that."""
    output = tmp_path / "out.onnx"
    result = onnxq("compile", model, "-o", output, "--data", data, *QUICK, "--recipe", "portable")
    assert result.exit_code == 1
    assert "out.onnx: output 'y' is useless: an SQNR of 0.0 dB (at 10 dB a third is error)" in result.stderr
    assert "--min-sqnr off takes it as it is" in result.stderr
    assert "QuantizeLinear" in operators(output)


def test_random_samples_judge_nothing(onnxq, model: Path, tmp_path: Path) -> None:
    result = onnxq(
        "compile", model, "-o", tmp_path / "out.onnx", "--data", "random", *QUICK, "--recipe", "portable"
    )
    assert result.exit_code == 0


def test_random_operators_are_no_loss(onnxq, tmp_path: Path) -> None:
    """The passes move the node to another place, by which ONNX Runtime seeds it; both get one seed."""
    path, output = tmp_path / "noisy.onnx", tmp_path / "out.onnx"
    text = """
    <ir_version: 8, opset_import: ["" : 17]> noisy (float[N,3] x) => (float[N,2] y)
    <float[3,2] w = {1, 0, 1, -1, 0.5, 2}> {
        b = Identity(x) c = Identity(b) p = MatMul(c, w) r = RandomNormalLike(p) y = Add(p, r)
    }"""
    onnx.save(onnx.parser.parse_model(text), path)
    result = onnxq("compile", path, "-o", output, "--data", "random", *QUICK, "--recipe", "weight-only")
    assert result.exit_code == 0
    assert "far from" not in result.stderr
    assert "RandomNormalLike: the model draws random numbers" in output.with_suffix(".report.md").read_text()
