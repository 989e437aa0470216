"""Taming outliers: of a model with a channel that rarely is far larger than the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxq.calibration.data import Dataset, input_specs, open_feeds
from onnxq.comparison import CompileOptions
from onnxq.compile import compile_model
from onnxq.finetuning import FinetuneOptions
from onnxq.ir.store import load_model, save_model
from onnxq.ir.text import parse
from onnxq.quanttuning import tame_model
from onnxq.recipe import Recipe
from onnxq.training.fitting import Plan

WIDE, LARGE = 16, 60
PLAIN = "infer-shapes, encode-weights, encode-activations{method=min-max}, encode-biases, insert-qdq"
RECIPE = Recipe(name="min-max", pipeline=PLAIN, needs_data=True)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a model whose first inner channel is 0 or ``LARGE`` times as large, and read so much smaller."""
    rng = np.random.default_rng(0)
    w1, w2 = rng.normal(size=(WIDE, WIDE)) / 4, rng.normal(size=(WIDE, 4)) / 4
    b = rng.normal(size=WIDE)
    w1[:, 0], b[0] = w1[:, 0] * LARGE, -2 * LARGE  # beyond two deviations: in one row of 44
    w2[0] /= LARGE
    constants = ", ".join(
        f"float[{','.join(map(str, array.shape))}] {name} = {{{', '.join(map(str, array.ravel()))}}}"
        for name, array in {"w1": w1, "w2": w2, "b": b}.items()
    )
    text = f"""<ir_version: 10, opset_import: ["" : 21]>
    main (float[N,{WIDE}] x) => (float[N,4] y) <{constants}> {{
        [up] u = MatMul(x, w1)
        [add] a = Add(u, b)
        [act] h = Relu(a)
        [down] y = MatMul(h, w2)
    }}"""
    path = tmp_path / "source.onnx"
    save_model(parse(text), path)
    return path


def _data(source: Path) -> Dataset:
    x = np.random.default_rng(1).normal(size=(256, WIDE)).astype(np.float32)
    batches = [{"x": x[start : start + 32]} for start in range(0, len(x), 32)]
    return open_feeds("x", lambda: batches, input_specs(load_model(source).model))


def _sqnr_db(source: Path, candidate: Path, output: Path) -> float:
    """Compile with a plain min-max calibration, and compare with the source."""
    data, options = _data(source), CompileOptions(bench=False, tune=False, keep_floor=False, threads=1)
    compile_model(candidate, output, recipe=RECIPE, data=data, options=options)
    from onnxq.runtime.validate import validate

    found = validate(source, output, data.batches()).outputs[0].sqnr_db
    assert found is not None
    return found


def test_plain_calibration_does_better_on_what_was_tamed(source: Path, tmp_path: Path) -> None:
    tamed = tmp_path / "tamed.onnx"
    plan = Plan(steps=400, rate=3e-2, check_every=100)
    found = tame_model(source, tamed, _data(source), FinetuneOptions(plan=plan, loss="mse", recipe=RECIPE))
    before, after = found.before["h"], found.after["h"]
    assert before.share > 0.5
    assert after.high < before.high / 2
    assert all(node.op_type in ("Add", "MatMul", "Relu") for node in load_model(tamed).graph)
    assert _sqnr_db(source, tamed, tmp_path / "b.onnx") > 3 + _sqnr_db(source, source, tmp_path / "a.onnx")
