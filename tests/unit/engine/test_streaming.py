"""What streams is never held as a whole: weights go from one file to another, a piece at a time."""

import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxq.engine.build import Build
from onnxq.engine.source import Source
from onnxq.ir import store
from onnxq.ir.module import GraphModule, name_of, tensor_of
from onnxq.ir.store import STREAMED_LIMIT, output_files, write_model
from onnxq.recipe import load_recipe

WEIGHTS, SIZE = 12, 1024
BYTES = SIZE * SIZE * 4
"""Of one weight, in float32."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a chain of products with external data, 48 MB."""
    nodes = [onnx.helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(WEIGHTS)]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", SIZE])
        for name in ("x0", f"x{WEIGHTS}")
    ]
    rng = np.random.default_rng(0)
    weights = [
        onnx.numpy_helper.from_array(rng.normal(size=(SIZE, SIZE)).astype(np.float32), f"w{i}")
        for i in range(WEIGHTS)
    ]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    opsets = [onnx.helper.make_opsetid("", 21)]
    path = tmp_path_factory.mktemp("source") / "chain.onnx"
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10),
        path,
        save_as_external_data=True,
        location="chain.data",
    )
    return path


def streamed(source: Path, recipe: str, output: Path) -> GraphModule:
    """Read, build and write the model."""
    module = Build(Source.of(source)).of(load_recipe(recipe)).module
    write_model(module, output_files(module, output))
    return module


@pytest.mark.parametrize("recipe", ["weight-only", "cpu-size"])
def test_no_more_than_two_weights_are_held(
    source: Path, recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "STREAMED_LIMIT", 0)
    streamed(source, recipe, tmp_path / "out.onnx")  # imports, and what libraries keep
    tracemalloc.start()
    try:
        module = streamed(source, recipe, tmp_path / "out.onnx")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Grids are kept, in the graph and for what is computed later: a scale and a zero point of 4 bytes each.
    values = module.graph.initializers.values()
    grids = sum(tensor_of(value).size for value in values if not name_of(value).endswith("_q"))
    assert peak - 2 * 4 * grids < 2 * BYTES
    assert (tmp_path / "out.onnx.data").stat().st_size > WEIGHTS * BYTES // 10


def test_small_models_stay_in_one_file(source: Path, tmp_path: Path) -> None:
    module = Build(Source.of(source)).of(load_recipe("weight-only")).module
    assert WEIGHTS * BYTES < STREAMED_LIMIT
    assert output_files(module, tmp_path / "out.onnx") == (tmp_path / "out.onnx",)
