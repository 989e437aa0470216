"""Weights in files: mapped while they are used, and quantized when somebody asks for what is stored."""

import gc
import io
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxq.analysis.products import saturating_products
from onnxq.engine.build import Build
from onnxq.engine.source import Source
from onnxq.ir.digest import graph_digest, graph_state
from onnxq.ir.external import MappedTensor
from onnxq.ir.module import GraphModule, tensor_of
from onnxq.ir.store import load_model, save_model
from onnxq.ir.stored import StoredTensor
from onnxq.quant.encodings import Encoding, block_encoding, symmetric_encoding
from onnxq.recipe import Recipe

ROWS, COLUMNS = 64, 33  # an odd number: rows of 4 bits end within a byte
WEIGHT = np.random.default_rng(0).normal(size=(ROWS, COLUMNS)).astype(np.float32)
PIPELINE = "convert-opset{minimum=21}, infer-shapes, WEIGHTS, quantize-dynamically, insert-qdq, remove-dead"
PASSES = [
    "encode-weights{bits=7}",
    "encode-weights{bits=8}",
    "encode-weight-blocks",
    "encode-weight-blocks{symmetric=true}",
]


@pytest.fixture
def in_file(tmp_path: Path) -> Path:
    """Return a product whose weight lies in a data file."""
    return saved(tmp_path / "in_file.onnx", external=True)


@pytest.fixture
def embedded(tmp_path: Path) -> Path:
    """Return the same in one file."""
    return saved(tmp_path / "embedded.onnx", external=False)


def saved(path: Path, *, external: bool) -> Path:
    text = f"main (float[N,{ROWS}] x) => (float[N,{COLUMNS}] y) {{ y = MatMul(x, w) }}"
    graph = onnx.parser.parse_graph(text)
    graph.initializer.append(onnx.numpy_helper.from_array(WEIGHT, "w"))
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, path, save_as_external_data=external, location=f"{path.name}.data", size_threshold=0)
    return path


def built(path: Path, weights: str) -> GraphModule:
    recipe = Recipe(name="mine", pipeline=PIPELINE.replace("WEIGHTS", weights))
    return Build(Source.of(path)).of(recipe).module


def mapped(path: Path) -> MappedTensor:
    tensor = tensor_of(load_model(path).value("w"))
    assert isinstance(tensor, MappedTensor)
    return tensor


def maps_of(file: Path) -> int:
    """Return how often this process maps a file at the moment."""
    gc.collect()
    return Path("/proc/self/maps").read_text().count(file.name)


@pytest.mark.parametrize("weights", PASSES)
def test_the_bytes_do_not_depend_on_where_weights_lie(in_file: Path, embedded: Path, weights: str) -> None:
    one, other = built(in_file, weights), built(embedded, weights)
    assert isinstance(tensor_of(one.value("w_q")), StoredTensor)
    assert not isinstance(tensor_of(other.value("w_q")), StoredTensor)
    assert graph_digest(one) == graph_digest(other)
    for external in (False, True):
        outputs = [folder / "out.onnx" for folder in (in_file.parent / "a", in_file.parent / "b")]
        for module, output in zip((one, other), outputs, strict=True):
            output.parent.mkdir(exist_ok=True)
            save_model(module, output, external_data=external)
        assert outputs[0].read_bytes() == outputs[1].read_bytes()
    data = [output.with_name("out.onnx.data").read_bytes() for output in outputs]
    assert data[0] == data[1]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what is mapped")
def test_a_file_is_mapped_no_longer_than_its_array_lives(in_file: Path) -> None:
    tensor, data = mapped(in_file), in_file.with_name("in_file.onnx.data")
    assert maps_of(data) == 0
    array = tensor.numpy()
    assert maps_of(data) == 1
    np.testing.assert_array_equal(array, WEIGHT)
    del array
    assert maps_of(data) == 0
    module = built(in_file, PASSES[0])
    save_model(module, in_file.with_name("out.onnx"), external_data=True)
    assert maps_of(data) == 0


@pytest.mark.parametrize(
    "encoding",
    [
        symmetric_encoding(np.abs(WEIGHT).max(axis=0), "int8", axis=1),
        symmetric_encoding(np.abs(WEIGHT).max(), "int4"),
        block_encoding(WEIGHT, "uint4", 0, 32),
        block_encoding(WEIGHT[:, :32], "uint4", 1, 16),
        symmetric_encoding(np.abs(WEIGHT).max(axis=0), "float8e4m3fn", axis=1),
    ],
    ids=str,
)
def test_what_is_written_is_what_is_computed(in_file: Path, encoding: Encoding) -> None:
    weight = mapped(in_file)
    if encoding.block_size == 16:
        weight._shape = ir.Shape([ROWS, 32])
        wanted = encoding.quantize(WEIGHT.ravel()[: ROWS * 32].reshape(ROWS, 32))
    else:
        wanted = encoding.quantize(WEIGHT)
    tensor = StoredTensor(weight, encoding)
    tensor.tofile(file := io.BytesIO())
    np.testing.assert_array_equal(tensor.numpy(), wanted)
    assert file.getvalue() == tensor.tobytes() == ir.Tensor(wanted, dtype=tensor.dtype).tobytes()
    assert len(file.getvalue()) == tensor.nbytes


def test_the_state_of_a_graph_tells_weights_and_encodings_apart(in_file: Path) -> None:
    states = {graph_state(built(in_file, weights)) for weights in PASSES}
    assert len(states) == len(PASSES)
    assert graph_state(built(in_file, PASSES[0])) in states


def test_the_state_of_a_graph_needs_no_weights(in_file: Path) -> None:
    module = built(in_file, PASSES[0])
    state = graph_state(module)
    in_file.with_name("in_file.onnx.data").unlink()
    assert graph_state(module) == state


@pytest.mark.parametrize(("weights", "count"), [(PASSES[0], 0), (PASSES[1], 1)])
def test_products_saturate_wherever_the_weight_lies(
    in_file: Path, embedded: Path, weights: str, count: int
) -> None:
    for path in (in_file, embedded):
        assert len(saturating_products(built(path, weights))) == count
