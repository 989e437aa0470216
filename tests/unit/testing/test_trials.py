"""What a trial of one model finds, on models and pipelines that are known to be right or wrong."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxq.testing.routes import BEFORE, alone, routes
from onnxq.testing.trials import (
    UnusableError,
    assert_about_as_near,
    assert_same_form,
    source_values,
    try_route,
)

MODEL = """
<ir_version: 10, opset_import: ["" : 21]>
main (float[N,4] x) => (float[N,2] y)
<float[4,2] w = {1, -20, 0.3, 40, -0.5, 60, 0.7, -80}>
{
    h = MatMul(x, w)
    y = Relu(h)
}
"""
FEEDS = {"x": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)}


def test_a_right_model_comes_out_quantized() -> None:
    module = try_route(onnx.parser.parse_model(MODEL), FEEDS, alone("encode-weights"))
    assert "DequantizeLinear" in {node.op_type for node in module.graph}


def test_the_numbers_in_a_sequence_are_compared_too() -> None:
    text = """
        <ir_version: 10, opset_import: ["" : 21]> main (seq(float[N]) x, int64 last) => (float[N] y)
        { h = SequenceAt(x, last) y = Neg(h) }
    """
    feeds = {"x": [np.float32([1, 2]), np.float32([3, 4])], "last": np.array(1)}
    try_route(onnx.parser.parse_model(text), feeds, alone("remove-dead"))


def test_what_computes_no_numbers_is_no_trial() -> None:
    model = onnx.parser.parse_model(MODEL.replace("Relu", "Log"))
    with pytest.raises(UnusableError, match="value 'y' is not finite"):
        try_route(model, FEEDS, alone("encode-weights"))
    with pytest.raises(UnusableError, match="'h' is beyond a narrow float type"):
        source_values(onnx.parser.parse_model(MODEL), FEEDS, largest=1.0)


def test_what_onnxruntime_does_not_run_is_no_trial() -> None:
    model = onnx.parser.parse_model(MODEL.replace("Relu", "Unheard"))
    with pytest.raises(UnusableError, match="Unheard"):
        source_values(model, FEEDS)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"z": np.ones(2, np.float32)}, "outputs"),
        ({"y": np.ones(2, np.float64)}, r"float32\[2\] became float64\[2\]"),
        ({"y": np.ones(3, np.float32)}, r"float32\[2\] became float32\[3\]"),
        ({"y": np.array([1, np.nan], np.float32)}, "not finite"),
    ],
)
def test_another_form_is_found(found: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        assert_same_form({"y": np.ones(2, np.float32)}, found)


def test_an_optimised_form_of_another_size_of_error_is_found() -> None:
    source, plain = {"y": np.full(3, 10, np.float32)}, {"y": np.full(3, 10.1, np.float32)}
    assert_about_as_near(source, plain, {"y": np.full(3, 10.3, np.float32)})
    with pytest.raises(AssertionError, match="optimised output 'y': moved by"):
        assert_about_as_near(source, plain, {"y": np.full(3, 12, np.float32)})


def test_every_pass_has_a_route_and_every_name_is_known() -> None:
    names = [route.name for route in routes()]
    for name in BEFORE:
        assert f"bare {name}" in names
        assert f"pass {name}" in names


def test_functions_are_no_reason_to_refuse_a_pass_by_itself() -> None:
    text = """
        <ir_version: 10, opset_import: ["" : 12, "own" : 1]> main (float[N,4] x) => (float[N,4] y)
        { y = own.twice(x) }
        <domain: "own", opset_import: ["" : 12]> twice (a) => (b) { b = Add(a, a) }
    """
    (bare,) = [route for route in routes() if route.name == "bare convert-opset"]
    assert "Add" in {node.op_type for node in try_route(onnx.parser.parse_model(text), FEEDS, bare).graph}
