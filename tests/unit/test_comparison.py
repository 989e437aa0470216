"""What a compilation warns of: results far from the source's, and models that are slower beyond doubt."""

from pathlib import Path

import numpy as np
import pytest

from onnxq.calibration.data import input_specs, open_feeds
from onnxq.comparison import (
    CompileOptions,
    choose_samples,
    compare,
    first_few,
)
from onnxq.errors import ModelError
from onnxq.ir.records import Remark
from onnxq.ir.store import load_model, save_model
from onnxq.ir.text import parse
from onnxq.passmanager.base import PassRecord
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.progress import quiet
from onnxq.runtime.bench import Spread
from onnxq.runtime.compare import OutputAccuracy
from onnxq.runtime.run import Run
from onnxq.runtime.slices import LostSlices
from onnxq.warned import (
    warn_of_accuracy,
    warn_of_decisions,
    warn_of_floats,
    warn_of_simulation,
    warn_of_size,
    warn_of_speed,
)


@pytest.mark.parametrize(("size", "count"), [(1 << 8, 16), (1 << 18, 2), (1 << 20, 1)])
def test_layers_are_compared_on_fewer_samples_the_larger_they_are(size: int, count: int) -> None:
    """Of 1 KB, 1 MB and 4 MB."""
    specs = input_specs(
        parse(f"""<ir_version: 10, opset_import: ["" : 21]>
main (float[N,{size}] x) => (float[N,{size}] y) {{ [act] y = Relu(x) }}""").model
    )
    x = np.zeros((32, size), np.float32)
    assert sum(batch.rows for batch in first_few(open_feeds("zeros", lambda: [{"x": x}], specs))) == count


def test_each_output_far_from_the_sources_is_named() -> None:
    outputs = [
        OutputAccuracy("good", 8, 0, cosine=0.98),
        OutputAccuracy("bad", 8, 0, cosine=0.7132),
        OutputAccuracy("class", 8, 0, equal=0.75),
        OutputAccuracy("zero", 8, 0),
    ]
    bad, of_class = warn_of_accuracy(outputs)
    assert bad.startswith("output 'bad' is far from the source's, with a cosine of 0.713: onnxq sensitivity")
    assert "output 'class' is far from the source's, with 75.0% of its values equal" in of_class


def test_slices_are_told_of_where_the_whole_looks_fine() -> None:
    lost = LostSlices(axis=1, length=24, lost=20, index=13, sqnr_db=-0.02)
    hidden, plain = warn_of_accuracy(
        [
            OutputAccuracy("y", 8, 0, cosine=0.99999, lost=lost),
            OutputAccuracy("z", 8, 0, cosine=0.9, lost=lost),
        ]
    )
    assert hidden.startswith(
        "output 'y' is far from the source's in 20 of 24 slices along axis 1, with 0.0 dB at index 13"
    )
    assert plain.startswith("output 'z' is far from the source's, with a cosine of 0.900")


@pytest.mark.parametrize(
    ("median", "p10", "p90", "warns"),
    [
        (0.999, 0.998, 0.9995, False),  # real, but nobody would notice
        (0.96, 0.91, 1.01, False),  # as far as the same model may lie from itself on a busy machine
        (0.96, 0.95, 0.97, True),
        (1.5, 1.4, 1.6, False),
    ],
)
def test_only_a_model_that_is_slower_beyond_doubt_is_called_slower(
    median: float, p10: float, p90: float, warns: bool
) -> None:
    assert bool(warn_of_speed(Spread(median, p10, p90))) is warns


def test_what_stayed_in_float_is_named_with_its_reason() -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 21]> main (float[N,2] x) => (float[N,2] y)
    <int8[2] w_q = {1, 2}, float s = {0.5}, float[2,2] v = {1, 2, 3, 4}, float[4] b = {1, 2, 3, 4}> {
        w = DequantizeLinear(w_q, s) h = Add(x, w) [layer] g = MatMul(h, v) y = PRelu(g, b)
    }"""
    records = [PassRecord("encode-weights", 0.0, remarks=(Remark("layer", "MatMul", "too wide"),))]
    assert warn_of_floats(parse(text), records) == (
        "20% of the weights were quantized; the others are read by MatMul (50% of those: too wide); "
        "PRelu (50% of those: no pass of the recipe quantizes weights of PRelu)",
    )
    assert (
        warn_of_floats(parse(text.replace("float[4] b = {1, 2, 3, 4}", "int8[4] b = {1, 2, 3, 4}")), []) == ()
    )


def test_bits_that_are_only_simulated_are_told_of() -> None:
    passes = parse_pipeline("encode-weights{bits=4}, encode-activations{bits=6}, insert-qdq")
    assert warn_of_simulation(passes) == (
        "simulated: weights in 4 bits and activations in 6 bits are stored and computed in 8, so nothing is "
        "smaller or faster",
    )
    stored = "encode-weights{bits=7}, encode-activations{bits=8}, encode-weight-blocks{bits=4}, insert-qdq"
    assert warn_of_simulation(parse_pipeline(stored)) == ()


def test_what_was_only_decided_is_told_of() -> None:
    text = """# encode x: scale=0.5 zero_point=0 readers=act
# encode y: scale=0.5 zero_point=0
<ir_version: 10, opset_import: ["" : 21]> main (float[2] x) => (float[2] y) { [act] y = Relu(x) }"""
    assert warn_of_decisions(parse(text)) == (
        "insert-qdq is not in the recipe: 2 of its encodings are nowhere in the result",
    )
    assert warn_of_decisions(parse(text.split("0\n")[-1])) == ()


def test_a_file_that_did_not_shrink_is_told_of() -> None:
    assert warn_of_size(9000, 8999) == ()
    assert warn_of_size(9000, 9000) == ("the file did not shrink: 9000 bytes became 9000",)
    assert warn_of_size(100, 700) == ()  # stamps outweigh so small a file


def test_the_comparison_runs_with_the_targets_entries(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    text = (
        """<ir_version: 10, opset_import: ["" : 21]> main (float[N,2] x) => (float[N,2] y) { y = Relu(x) }"""
    )
    save_model(parse(text), path)
    options = CompileOptions(bench=False, threads=1)
    samples = choose_samples(None, 0, input_specs(load_model(path).model), options)
    found = compare(path, path, samples, options, quiet, Run(threads=1))
    assert found.accuracy is not None
    assert found.accuracy.outputs[0].max_abs == 0
    wrong = Run(threads=1, entries={"optimization.minimal_build_optimizations": "X"})
    with pytest.raises(ModelError, match="Invalid value for optimization"):
        compare(path, path, samples, options, quiet, wrong)
