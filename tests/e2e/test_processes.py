"""One process or two: the same bytes, the same manifest but for times, and the same bytes from either."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from onnxq.calibration.data import Dataset, input_specs, open_feeds
from onnxq.cli.app import make_app
from onnxq.comparison import CompileOptions
from onnxq.compilation import CompileResult
from onnxq.compile import compile_model
from onnxq.errors import ModelError, OnnxqError
from onnxq.ir.store import load_model, save_model
from onnxq.ir.text import parse
from onnxq.manifest import manifest_path
from onnxq.recipe import Recipe, load_recipe
from onnxq.search.sensitivity import measure_sensitivity

QUIET = CompileOptions(bench=False, tune=False)
CONVOLUTIONS = """<ir_version: 10, opset_import: ["" : 21]>
main (float[N,3,8,8] x) => (float[N,8] y)
<float[4,3,3,3] v = {V}, float[4] b = {0.1, 0.2, 0.3, 0.4}, float[256,8] w = {W}>
{
    [first] c = Conv<pads = [1, 1, 1, 1]>(x, v, b)
    [relu] r = Relu(c)
    [flat] f = Flatten(r)
    [last] y = MatMul(f, w)
}
"""


def numbers(rng: np.random.Generator, count: int) -> str:
    return ", ".join(f"{number:.4f}" for number in rng.normal(size=count))


@pytest.fixture(params=["products", "convolutions"])
def source(request: pytest.FixtureRequest, models: Path, tmp_path: Path) -> Path:
    """Return a model; what convolutions read is measured in the midst of a trial."""
    text, rng = (models / "mlp_3d.onnxtxt").read_text(), np.random.default_rng(3)
    if request.param == "convolutions":
        text = CONVOLUTIONS.replace("{V}", f"{{{numbers(rng, 108)}}}")
        text = text.replace("{W}", f"{{{numbers(rng, 2048)}}}")
    save_model(parse(text), path := tmp_path / "small.onnx")
    return path


def data_for(source: Path) -> Dataset:
    specs = input_specs(load_model(source).model)
    shape = [axis if isinstance(axis, int) else 48 for axis in specs[0].shape or ()]
    x = np.random.default_rng(0).normal(size=[48, *shape[1:]]).astype(np.float32)
    return open_feeds("x", lambda: [{specs[0].name: x}], specs)


def compiled(source: Path, name: str, recipe: Recipe, options: CompileOptions) -> CompileResult:
    output = source.with_name(f"{name}.onnx")
    return compile_model(source, output, recipe=recipe, data=data_for(source), options=options)


def told(result: CompileResult) -> Any:
    """Return the manifest without times and without the name of the file."""
    content = json.loads(manifest_path(result.output).read_text())
    content["output"].pop("name")
    content["accuracy"].pop("candidate")
    for record in content["passes"]:
        record.pop("seconds")
    return content


def test_the_bytes_and_the_manifest_are_the_same(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = load_recipe("cpu")
    finer = {"encode-activations": {"dtype": ("uint16",), "method": ("mse",)}}
    recipe = cpu.model_copy(update={"choices": finer | {**cpu.choices, **finer}})
    found = {}
    for processes in (1, 2):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache{processes}"))
        found[processes] = compiled(source, str(processes), recipe, replace(QUIET, processes=processes))
    one, two = found.values()
    assert any(trial.taken for trial in (one.manifest.choices or ())[1:])
    assert one.output.read_bytes() == two.output.read_bytes()
    assert told(one) == told(two)
    for processes, first in found.items():
        again = load_recipe(manifest_path(first.output))
        result = compiled(source, f"again{processes}", again, replace(QUIET, processes=3 - processes))
        assert result.output.read_bytes() == one.output.read_bytes()


def test_sensitivity_is_the_same(source: Path) -> None:
    found = [
        measure_sensitivity(source, load_recipe("cpu"), data_for(source), processes=processes)
        for processes in (1, 2)
    ]
    assert len(found[0].tensors) > 2
    assert found[0] == found[1]


def test_an_error_in_a_process_is_that_of_one(source: Path) -> None:
    """The source is gone once the first recipe was tried here."""
    told = []
    for processes in (1, 2):
        content = source.read_bytes()

        def on_progress(phase: str, done: int, total: int | None) -> None:
            if phase == "choosing" and done == 1:
                source.unlink()

        with pytest.raises(OnnxqError) as found:
            compile_model(
                *(source, source.with_name("out.onnx")),
                recipe=load_recipe("cpu"),
                data=data_for(source),
                options=replace(QUIET, processes=processes),
                on_progress=on_progress,
            )
        told.append((type(found.value), str(found.value), found.value.hint))
        source.write_bytes(content)
    assert told[0] == told[1]
    assert told[0][0] is ModelError


def test_the_command_line_takes_processes(source: Path) -> None:
    np.savez(source.with_name("data.npz"), **next(iter(data_for(source).batches())).feeds)
    given = [str(source), "--data", str(source.with_name("data.npz")), "--processes", "2", "--json"]
    quick = ["--no-tune", "--no-bench", "--no-validate", "-o", str(source.with_name("out.onnx"))]
    for command in (["compile", *given, *quick], ["sensitivity", *given]):
        result = CliRunner().invoke(make_app(), command)
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["command"] == command[0]
