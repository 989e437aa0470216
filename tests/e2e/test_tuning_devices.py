"""Forms for devices, raced for real: on the CPU provider, which stands in for the device's."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxq import CompileOptions, compile_model, load_model, load_recipe, open_feeds
from onnxq.calibration.data import input_specs
from onnxq.engine.build import Build
from onnxq.engine.source import Source
from onnxq.recipe import Recipe
from onnxq.runtime.run import Run
from onnxq.runtime.session import usable_provider
from onnxq.search.tune import tune

pytest.importorskip("onnxruntime", reason="times models")
WIDTH = 256
needs_no_gpu = pytest.mark.skipif(usable_provider("cuda") is not None, reason="there is a GPU")
PIPELINE = """@unpack, convert-opset{minimum=21}, @shapes,
encode-weight-blocks{bits=8, block=32, symmetric=true},
insert-qdq, fuse-block-matmul, remove-dead, infer-shapes, lower-precision"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(WIDTH, WIDTH)).astype(np.float32) for _ in range(2)]
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["h"], name="first"),
        helper.make_node("MatMul", ["h", "w1"], ["y"], name="second"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", WIDTH]) for name in "xy"]
    initializers = [numpy_helper.from_array(array, f"w{index}") for index, array in enumerate(weights)]
    graph = helper.make_graph(nodes, "two", values[:1], values[1:], initializers)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10),
        tmp_path / "m.onnx",
    )
    return tmp_path / "m.onnx"


def test_variants_race_and_what_does_not_run_stays_out(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONNXQ_CACHE", "off")
    recipe = Recipe(name="blocks", target="cuda", pipeline=PIPELINE)
    feeds = [{"x": np.random.default_rng(1).normal(size=(4, WIDTH)).astype(np.float32)}]
    found = tune(model, recipe, Build(Source.of(model)), feeds, Run(threads=1))
    verdicts = {one.name: one for one in found.verdicts}
    blocks = [f"encode-weight-blocks.block={size}" for size in (64, 128)]
    assert set(blocks) < verdicts.keys()
    assert all(verdicts[name].gain != 1.0 for name in blocks)  # they raced
    assert sum(verdicts[name].dropped for name in blocks) <= 1
    # the CPU provider has no bfloat16
    assert verdicts["lower-precision.dtype=bfloat16"].spread == (1.0, 1.0)
    assert not verdicts["lower-precision.dtype=bfloat16"].dropped


@needs_no_gpu
def test_without_a_gpu_nothing_is_tuned(model: Path, tmp_path: Path) -> None:
    result = compile_model(model, tmp_path / "out.onnx", recipe=load_recipe("cuda"), options=CompileOptions())
    assert result.manifest.tuning is None
    assert result.manifest.recipe.pipeline == load_recipe("cuda").pipeline


@needs_no_gpu
@pytest.mark.parametrize(("rows", "warned"), [(1, False), (8, True)])
def test_weights_in_blocks_are_warned_of_where_float16_was_faster(
    model: Path, tmp_path: Path, rows: int, warned: bool
) -> None:
    samples = [{"x": np.ones((rows, WIDTH), np.float32)} for _ in range(2)]
    data = open_feeds("rows", lambda: samples, input_specs(load_model(model).model))
    options = CompileOptions(validation_data=data)
    result = compile_model(
        model, tmp_path / "out.onnx", recipe=load_recipe("cuda-weights-8"), options=options
    )
    told = [line for line in result.manifest.warnings if "float16 was faster" in line]
    assert bool(told) == warned
    if warned:
        assert "products of 8 rows read weights in 8 bits: with more than 1 float16 was faster" in told[0]
        assert "NVIDIA H200" in told[0]
