"""A compilation that rounds weights to outputs: repeated with its data, and refused without."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from onnxq import CompileOptions, Dataset, compile_model, load_model, load_recipe, open_feeds, save_model
from onnxq.calibration.data import InputSpec, input_specs
from onnxq.calibration.table import CalibrationTable
from onnxq.errors import CalibrationError
from onnxq.ir.text import parse
from onnxq.recipe import load_recipe_table

QUIET = CompileOptions(validate=False, bench=False)


WIDTH = 64


def _model(path: Path) -> Path:
    weight = ", ".join(f"{number:.4f}" for number in np.random.default_rng(1).normal(size=WIDTH * 8))
    module = parse(f"""<ir_version: 10, opset_import: ["" : 21]>
main (float[N,5,{WIDTH}] x) => (float[N,5,8] y)
<float[{WIDTH},8] w = {{{weight}}}>
{{
    [product] y = MatMul(x, w)
}}""")
    save_model(module, path)
    return path


def _data(source: Path, batch: int) -> Dataset:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(24, 5, 1)) + 0.1 * rng.normal(size=(24, 5, WIDTH))).astype(np.float32)
    feeds = [{"x": x[start : start + batch]} for start in range(0, len(x), batch)]
    return open_feeds("rows", lambda: feeds, _specs(source))


def _specs(source: Path) -> tuple[InputSpec, ...]:
    return input_specs(load_model(source).model)


def test_the_manifest_repeats_it_with_the_data(tmp_path: Path) -> None:
    source = _model(tmp_path / "source.onnx")
    first, again = tmp_path / "first.onnx", tmp_path / "again.onnx"
    recipe = load_recipe("cpu-size")
    pipeline = re.sub("(encode-weight-blocks[^,]*,)", r"\1 round-weights,", recipe.pipeline)
    recipe = recipe.model_copy(update={"pipeline": pipeline})
    result = compile_model(source, first, recipe=recipe, data=_data(source, 8), options=QUIET)
    (record,) = (record for record in result.records if record.text == "round-weights")
    assert any(edit.action == "encode" for edit in record.edits)
    manifest = first.with_suffix(".manifest.json")
    table = CalibrationTable.from_json(load_recipe_table(manifest) or "")
    recipe = load_recipe(manifest)
    with pytest.raises(CalibrationError, match="too little") as caught:
        compile_model(source, again, recipe=recipe, table=table, options=QUIET)
    assert caught.value.hint == "give --data"
    other = open_feeds("zeros", lambda: [{"x": np.zeros((24, 5, WIDTH), np.float32)}], _specs(source))
    with pytest.raises(CalibrationError, match="not the data that it was collected on"):
        compile_model(source, again, recipe=recipe, table=table, data=other, options=QUIET)
    with pytest.raises(CalibrationError, match="too little") as caught:  # all is missing, not that alone
        compile_model(source, again, recipe=recipe, table=table.only(()), options=QUIET)
    assert caught.value.hint == "give --data"
    compile_model(source, again, recipe=recipe, table=table, data=_data(source, 3), options=QUIET)
    assert again.read_bytes() == first.read_bytes()
