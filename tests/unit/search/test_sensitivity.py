"""The report of onnxq.search.sensitivity on a model whose weak points are known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from onnxq.calibration.data import input_specs, open_feeds
from onnxq.errors import RecipeError
from onnxq.ir.store import load_model, save_model
from onnxq.ir.text import parse
from onnxq.recipe import Recipe
from onnxq.search.sensitivity import measure_sensitivity

WIDTH, OUTLIER = 16, 5
PIPELINE = "infer-shapes, encode-weights, encode-activations, insert-qdq, remove-dead"


def _model(path: Path) -> Path:
    """Write two layers side by side; what the second reads has one channel that reaches far."""
    rng = np.random.default_rng(0)
    numbers = [", ".join(f"{n:.4f}" for n in rng.normal(size=WIDTH * WIDTH)) for _ in range(2)]
    factors = ", ".join("60" if channel == OUTLIER else "1" for channel in range(WIDTH))
    module = parse(f"""<ir_version: 10, opset_import: ["" : 21]>
main (float[N,{WIDTH}] x) => (float[N,{WIDTH}] y)
<float[{WIDTH},{WIDTH}] v = {{{numbers[0]}}}, float[{WIDTH},{WIDTH}] w = {{{numbers[1]}}},
 float[{WIDTH}] factors = {{{factors}}}>
{{
    [even] a = MatMul(x, v)
    [wide] h = Mul(x, factors)
    [uneven] b = MatMul(h, w)
    [sum] y = Add(a, b)
}}""")
    save_model(module, path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return _model(tmp_path / "model.onnx")


def _data(model: Path):
    rng = np.random.default_rng(1)
    feeds = [{"x": rng.normal(size=(8, WIDTH)).astype(np.float32)} for _ in range(6)]
    return open_feeds("rows", lambda: feeds, input_specs(load_model(model).model))


def _recipe(pipeline: str = PIPELINE) -> Recipe:
    return Recipe(name="test", pipeline=pipeline, calibration={"samples": 32})


def test_the_weak_point_comes_first(model: Path) -> None:
    report = measure_sensitivity(model, _recipe(), _data(model), samples=16)
    assert report.samples == 16
    assert math.isinf(report.float_db)
    assert {entry.name for entry in report.tensors} == {"x", "h", "v", "w"}
    assert {entry.name for entry in report.layers} == {"even", "uneven"}
    assert report.tensors[0].name == "h"
    assert report.layers[0].name == "uneven"
    first = report.tensors[0].channels[0]
    assert first.channel == OUTLIER
    assert first.times_median > 10


def test_what_makes_up_for_quantization_is_off_with_it(model: Path) -> None:
    """Corrected biases and rounded weights would move the outputs where nothing is quantized."""
    pipeline = PIPELINE.replace("insert-qdq", "round-weights, correct-bias, insert-qdq")
    report = measure_sensitivity(model, _recipe(pipeline), _data(model), samples=16)
    assert report.float_db > 120  # the model itself, but for float32 rounding
    assert report.tensors[0].name == "h"
    assert max(entry.alone_db for entry in report.tensors) > report.all_db + 6


def test_leaving_the_weak_point_alone_helps_most(model: Path) -> None:
    report = measure_sensitivity(model, _recipe(), _data(model), samples=16)
    best = max(report.tensors, key=lambda entry: entry.others_db)
    assert best.name == "h"
    assert best.others_db > report.all_db
    # The weights' error adds to the activations', or cancels some of it: by its share at most. What the
    # two make of each other is a hundredth of that.
    share = 1.01 * 10 ** ((report.activations_db - report.weights_db) / 20)
    assert abs(report.all_db - report.activations_db) < -20 * math.log10(1 - share)
    assert report.weights_db < min(e.alone_db for e in report.tensors if e.kind == "weight")


def test_plain_values_are_json(model: Path) -> None:
    plain = measure_sensitivity(model, _recipe(), _data(model), samples=8).to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert (plain["version"], plain["float_db"]) == (1, None)


def test_nothing_to_look_at(model: Path) -> None:
    with pytest.raises(RecipeError, match=r"encodes nothing of .*\.onnx before it realises"):
        measure_sensitivity(model, _recipe("infer-shapes"), _data(model))
