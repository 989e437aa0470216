"""What the recipe ``cpu`` quantizes runs in integer kernels, on every model of the repository.

An onnxruntime that no longer fuses one of these patterns fails here, and says which layer and why.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from onnxq import CompileOptions, compile_model, load_model, load_recipe, open_feeds
from onnxq.analysis.layers import linear_layers, makes_tokens
from onnxq.calibration.data import input_specs
from onnxq.digits import DIGITS_MODEL
from onnxq.runtime.kernels import LayerKernel, LayerState, kernel_report
from onnxq.runtime.run import Run
from onnxq.testing.laws import random_feeds

FLOAT8 = "matmul_float8"
"""A model whose weight is narrow already: not for CPUs."""
MODELS = sorted((Path(__file__).parents[2] / "models").glob("*.onnxtxt"))
QUIET = CompileOptions(validate=False, bench=False, tune=False)


@pytest.fixture(
    params=[path for path in (*MODELS, DIGITS_MODEL) if path.stem != FLOAT8], ids=lambda path: path.stem
)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param.suffix == ".onnx":
        return Path(request.param)
    path = tmp_path / f"{request.param.stem}.onnx"
    onnx.save(onnx.parser.parse_model(request.param.read_text()), path)
    return path


def layers_after(source: Path, output: Path, recipe: str) -> dict[str, LayerKernel]:
    """Compile ``source`` on made-up data, run it, and return how its layers ran."""
    module = load_model(source)
    feeds = random_feeds(module, seed=0)
    data = open_feeds("made up", lambda: [feeds], input_specs(module.model))
    compile_model(source, output, recipe=load_recipe(recipe), data=data, options=QUIET)
    report = kernel_report(output, feeds, Run(threads=1), source=source, runs=1)
    return {layer.name: layer for layer in report.provenance.layers}


def test_every_layer_with_a_weight_runs_in_integers(source: Path, tmp_path: Path) -> None:
    ran = layers_after(source, tmp_path / "out.onnx", "cpu")
    for layer in linear_layers(load_model(source)):
        name = layer.node.name or ""
        if layer.node.op_type != "ConvTranspose" and not makes_tokens(layer):
            assert ran[name].state is LayerState.INTEGER, ran[name]
    assert [name for name, one in ran.items() if one.state is LayerState.UNFUSED] == []


def test_no_layer_is_lost(source: Path, tmp_path: Path) -> None:
    ran = layers_after(source, tmp_path / "out.onnx", "fp32")
    assert all(layer.state is LayerState.FLOAT and layer.kernels for layer in ran.values())
