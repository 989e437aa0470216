"""Every model of the catalogue is there, valid, and as good as the catalogue says."""

import importlib.util
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from onnxq.digits import load_digits_split

ROOT = Path(__file__).parents[3]
CATALOG = tomllib.loads((ROOT / "models" / "catalog.toml").read_text())
DIGITS = CATALOG["digits_vit"]
TEXT_MODELS = ("bert_tiny_emotion", "bert_tiny_spam")
GRAPHS = sorted(CATALOG["graphs"])
SIZES = {"N": 3, "S": 4, "P": 2}
SMALLEST_TABLE = 5


def read_graph(name: str) -> onnx.ModelProto:
    return onnx.parser.parse_model((ROOT / name).read_text())


def start(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def random_array(value: onnx.ValueInfoProto, rng: np.random.Generator) -> NDArray[Any]:
    """Return values of the input's type: normal reals, token ids, or truths."""
    tensor = value.type.tensor_type
    shape = [SIZES[dim.dim_param] if dim.dim_param else dim.dim_value for dim in tensor.shape.dim]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    if np.issubdtype(dtype, np.floating):
        return rng.normal(size=shape).astype(dtype)
    return rng.integers(SMALLEST_TABLE, size=shape).astype(dtype)


def random_feeds(model: onnx.ModelProto, seed: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    weights = {weight.name for weight in model.graph.initializer}
    return {value.name: random_array(value, rng) for value in model.graph.input if value.name not in weights}


def test_the_catalogue_names_every_graph() -> None:
    assert [path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("models/*.onnxtxt"))] == GRAPHS


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_is_valid_and_its_nodes_have_names(name: str) -> None:
    model = read_graph(name)
    onnx.checker.check_model(model, full_check=True)
    names = [node.name for node in model.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
    assert model.graph.name == Path(name).stem


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("seed", range(2))
def test_a_graph_runs(name: str, seed: int) -> None:
    model = read_graph(name)
    for output in start(model).run(None, random_feeds(model, seed)):
        assert np.isfinite(output).all()
        assert np.ptp(output) > 0, "an output that does not vary tests nothing"


def test_both_branches_run() -> None:
    model = read_graph("models/if_branches.onnxtxt")
    session, feeds = start(model), random_feeds(model, 0)
    deep, plain = (session.run(None, feeds | {"deep": np.array(way)})[0] for way in (True, False))
    assert not np.array_equal(deep, plain)


def test_the_digits_model_is_as_accurate_as_the_catalogue_says() -> None:
    split = load_digits_split()
    session = start(onnx.load(ROOT / DIGITS["file"]))
    (logits,) = session.run([DIGITS["output"]["name"]], {DIGITS["input"]["name"]: split.test_images})
    accuracy = 100 * np.mean(logits.argmax(1) == split.test_labels)
    # One image is 0.2 points: within 0.05 the same images are right.
    assert accuracy == pytest.approx(DIGITS["held_out_accuracy"], abs=0.05)


@pytest.mark.parametrize("name", ["digits_vit", *TEXT_MODELS])
def test_a_trained_model_has_the_catalogues_interface(name: str) -> None:
    entry = CATALOG[name]
    model = onnx.load(ROOT / entry["file"])
    onnx.checker.check_model(model, full_check=True)
    session = start(model)
    inputs = entry.get("inputs") or [entry["input"]]
    for found, told in ((session.get_inputs(), inputs), (session.get_outputs(), [entry["output"]])):
        assert [(value.name, value.shape) for value in found] == [(one["name"], one["shape"]) for one in told]
    weights = [weight for weight in model.graph.initializer if weight.data_type == onnx.TensorProto.FLOAT]
    sizes = [int(np.prod(weight.dims)) for weight in weights]
    # One number alone, such as the scale of the attention scores, is a constant and no parameter.
    assert sum(size for size in sizes if size > 1) == entry["parameters"]


@pytest.mark.shared
@pytest.mark.parametrize("name", TEXT_MODELS)
def test_a_text_model_is_as_accurate_as_the_catalogue_says(name: str, assets: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    entry = CATALOG[name]
    spec = importlib.util.spec_from_file_location("text_data", ROOT / "models" / "text_data.py")
    assert spec is not None
    assert spec.loader is not None
    texts = importlib.util.module_from_spec(spec)
    sys.modules["text_data"] = texts
    spec.loader.exec_module(texts)
    rows = texts.read_texts(name.removeprefix("bert_tiny_"), assets / "data" / "text").dev
    tokenizer = tokenizers.Tokenizer.from_file(str(ROOT / entry["tokenizer"]))
    session = start(onnx.load(ROOT / entry["file"]))
    right = sum(predicted(session, tokenizer.encode(text).ids) == label for text, label in rows)
    # One text in 2000 is 0.05 points: within half of that the same texts are right.
    assert 100 * right / len(rows) == pytest.approx(entry["held_out_accuracy"], abs=0.025)


def predicted(session: onnxruntime.InferenceSession, ids: list[int]) -> int:
    """Return the class of one text, which is not padded."""
    feeds = {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64)}
    return int(session.run(None, feeds)[0].argmax())


@pytest.mark.parametrize("name", ["digits_vit", *TEXT_MODELS])
def test_a_trained_model_carries_no_notes_of_the_exporter(name: str) -> None:
    model = onnx.load(ROOT / CATALOG[name]["file"])
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer]
    for item in [model, model.graph, *model.graph.node, *values]:
        assert not item.doc_string
        assert not item.metadata_props
