"""Matching and batching, seen through feeds given in Python."""

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxq.calibration.data import DataOptions, InputSpec, input_specs, open_feeds
from onnxq.calibration.data.base import ArrayRows, Chunk
from onnxq.calibration.data.dataset import Dataset
from onnxq.calibration.data.matching import Matcher
from onnxq.errors import DataError

F32, I64, I32 = np.dtype(np.float32), np.dtype(np.int64), np.dtype(np.int32)
X = [InputSpec("x", F32, ("batch", 2))]
BERT = [InputSpec(name, I64, ("batch", "t")) for name in ("input_ids", "attention_mask")]


def read(inputs: list[InputSpec], *items: Any, **options: Any) -> Dataset:
    return open_feeds("feeds", lambda: items, inputs, DataOptions(**options))


def refusal(data: Dataset) -> DataError:
    with pytest.raises(DataError) as caught:
        list(data.batches())
    return caught.value


class Slices:
    """One chunk of rows, as a file would give it."""

    warning = None

    def __init__(self, **arrays: np.ndarray) -> None:
        self.arrays = arrays

    def count(self) -> None:
        return None

    def chunks(self) -> Iterator[Chunk]:
        yield Chunk({name: ArrayRows(array) for name, array in self.arrays.items()}, "slices")


def test_a_missing_input_is_named_with_what_there_is() -> None:
    error = refusal(read(BERT, {"input_id": np.zeros((1, 3), np.int64), "attention_mask": np.ones((1, 3))}))
    assert str(error) == (
        "feeds, item 0: input 'input_ids': int64[batch,t] is missing; the data has: attention_mask, input_id"
    )
    assert error.hint == "did you mean 'input_id'?"


def test_the_hint_for_a_missing_input_without_a_near_name() -> None:
    error = refusal(read(BERT, {"input_ids": np.zeros((1, 3), np.int64)}))
    assert error.hint == "name the arrays after the model's inputs"


def test_one_array_serves_one_input_whatever_its_name() -> None:
    batch = next(read(X, {"pixels": np.zeros((3, 2), np.float32)}).batches())
    assert list(batch.feeds) == ["x"]
    assert batch.rows == 3


def test_extra_arrays_are_ignored_with_a_note() -> None:
    data = read(X, {"x": np.zeros((1, 2), np.float32), "id": np.zeros(1)})
    assert list(next(data.batches()).feeds) == ["x"]
    assert data.notes == ("not an input of the model, ignored: id",)


def test_inputs_with_a_default_may_be_missing() -> None:
    specs = [*X, InputSpec("w", F32, (2, 2), required=False)]
    assert list(next(read(specs, {"x": np.zeros((1, 2), np.float32)}).batches()).feeds) == ["x"]


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((4, 3), "prepare the data as for the original model"),
        ((4, 5, 2), "each sample needs 1 axes, and the file one more in front"),
    ],
)
def test_a_wrong_shape_says_both(shape: tuple[int, ...], hint: str) -> None:
    error = refusal(read(X, {"x": np.zeros(shape, np.float32)}))
    found = ",".join(map(str, shape))
    assert error.message == f"input 'x': the model wants float32[batch,2], the data has float32[{found}]"
    assert hint in str(error.hint)


def test_channels_on_the_wrong_axis_get_a_hint() -> None:
    specs = [InputSpec("x", F32, ("n", 3, 8, 8))]
    assert "transpose" in str(refusal(read(specs, {"x": np.zeros((1, 8, 8, 3), np.float32)})).hint)


def test_floats_never_become_integers() -> None:
    error = refusal(read([InputSpec("x", I64, ("n",))], {"x": np.array([1.0])}))
    assert error.message == "input 'x': the model wants int64[n], the data has float64[1]"
    assert error.hint == "convert the array; onnxq never turns float64 into int64 by itself"


def test_integers_become_floats_only_when_told_how() -> None:
    error = refusal(read(X, {"x": np.zeros((1, 2), np.uint8)}))
    assert "the model wants float32[batch,2], the data has uint8[1,2]" in error.message
    assert "--scale 1" in str(error.hint)
    raw = np.array([[0, 255]], np.uint8)
    kept = next(read(X, {"x": raw}, scale=1.0).batches()).feeds["x"]
    normal = next(read(X, {"x": raw}, mean=(0.5,), std=(0.5,)).batches()).feeds["x"]
    np.testing.assert_array_equal(kept, [[0.0, 255.0]])
    np.testing.assert_allclose(normal, [[-1.0, 1.0]], rtol=1e-6)  # three float32 operations


def test_pixel_settings_leave_floats_alone_with_a_note() -> None:
    data = read(X, {"x": np.ones((1, 2), np.float32)}, mean=(0.5,))
    np.testing.assert_array_equal(next(data.batches()).feeds["x"], [[1, 1]])
    assert data.notes == ("'x' is float already: scale, mean and std are not applied to it",)


def test_mean_per_channel_needs_as_many_channels() -> None:
    specs = [InputSpec("x", F32, ("n", 1, 2, 2))]
    pixels = {"x": np.zeros((1, 1, 2, 2), np.uint8)}
    error = refusal(read(specs, pixels, mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0)))
    assert error.message == "mean has 3 values, but the data has 1 channels"
    error = refusal(read(X, {"x": np.zeros((1, 2), np.uint8)}, mean=(0.1, 0.2), std=(1.0, 1.0)))
    assert error.message == "mean has 2 values, but the data has no channel axis"


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (np.int32, np.int64), (np.int64, np.int32), (np.float64, np.float32), (np.float32, np.float16),
        (np.float32, ml_dtypes.bfloat16), (np.bool_, np.int64), (np.bool_, np.float32), (np.int64, np.bool_),
    ],
)  # fmt: skip
def test_safe_conversions_happen_by_themselves(source: Any, target: Any) -> None:
    specs = [InputSpec("x", np.dtype(target), ("n",))]
    array = next(read(specs, {"x": np.array([0, 1], source)}).batches()).feeds["x"]
    assert array.dtype == target
    assert array.astype(np.float32).tolist() == [0, 1]


def test_an_integer_that_does_not_fit_is_refused() -> None:
    error = refusal(read([InputSpec("x", I32, ("n",))], {"x": np.array([1, 3_000_000_000])}))
    assert error.message == "input 'x': a value of 3000000000 does not fit int32"


@pytest.mark.parametrize(("value", "word"), [(np.nan, "nan"), (-np.inf, "-inf")])
def test_nan_and_infinity_are_refused_with_the_sample(value: float, word: str) -> None:
    first, second = np.zeros((3, 2), np.float32), np.zeros((2, 2), np.float32)
    second[1, 0] = value
    error = refusal(read(X, {"x": first}, {"x": second}))
    assert str(error) == f"feeds, item 1: input 'x': sample 4 (counted from 0) has {word} as float32"


def test_a_value_too_large_for_the_model_is_refused() -> None:
    error = refusal(read([InputSpec("x", np.dtype(np.float16), ("n",))], {"x": np.array([1e6])}))
    assert "sample 0 (counted from 0) has inf as float16" in error.message


def test_empty_data_is_refused() -> None:
    for items in ((), ({"x": np.zeros((0, 2), np.float32)},)):
        error = refusal(read(X, *items))
        assert str(error) == "feeds: there is no sample in it"
        assert error.hint == "give data with at least one sample"


def test_labels_have_to_agree_with_the_samples() -> None:
    error = refusal(read(X, ({"x": np.zeros((2, 2), np.float32)}, [1, 2, 3])))
    assert error.message == "3 labels for 2 samples"


def test_given_feeds_keep_their_size() -> None:
    sizes = [5, 1, 3]
    feeds = [{"x": np.zeros((size, 2), np.float32)} for size in sizes]
    assert [batch.rows for batch in read(X, *feeds, batch_size=2).batches()] == sizes


@pytest.mark.parametrize(("limit", "sizes"), [(1, [1]), (5, [5]), (6, [5, 1]), (99, [5, 3])])
def test_limit_counts_samples(limit: int, sizes: list[int]) -> None:
    feeds = [({"x": np.zeros((size, 2), np.float32)}, np.arange(size)) for size in (5, 3)]
    batches = list(read(X, *feeds, limit=limit).batches())
    assert [batch.rows for batch in batches] == sizes
    assert [len(batch.labels) for batch in batches if batch.labels is not None] == sizes


def test_a_fixed_batch_decides_and_leaves_out_the_rest() -> None:
    specs = [InputSpec("x", F32, (4, 2))]
    data = Dataset("d", specs, Slices(x=np.zeros((10, 2), np.float32)), DataOptions(batch_size=8))
    assert [batch.rows for batch in data.batches()] == [4, 4]
    assert data.notes == (
        "the model's inputs allow batches of 4 only, not of 8",
        "2 samples left out: the model's batch size is fixed at 4",
    )


def test_too_few_samples_for_a_fixed_batch() -> None:
    specs = [InputSpec("x", F32, (4, 2))]
    error = refusal(Dataset("d", specs, Slices(x=np.zeros((3, 2), np.float32))))
    assert error.hint == "3 samples left out: the model's batch size is fixed at 4"


def test_a_scalar_goes_with_every_batch() -> None:
    specs = [*X, InputSpec("rate", I64, ())]
    data = Dataset(
        "d", specs, Slices(x=np.zeros((3, 2), np.float32), rate=np.array(16000)), DataOptions(batch_size=2)
    )
    batches = list(data.batches())
    assert [batch.rows for batch in batches] == [2, 1]
    assert {int(batch.feeds["rate"]) for batch in batches} == {16000}


def test_a_batch_on_another_axis_allows_single_samples_only() -> None:
    specs = [*X, InputSpec("state", F32, (2, "batch", 5))]
    data = Dataset("d", specs, Slices(x=np.zeros((3, 2), np.float32), state=np.zeros((2, 1, 5), np.float32)))
    assert [batch.rows for batch in data.batches()] == [1, 1, 1]


def test_inputs_without_a_common_batch_make_one_sample() -> None:
    specs = [InputSpec("a", F32, (3, 4)), InputSpec("b", F32, (4, 5))]
    feeds = {"a": np.zeros((3, 4), np.float32), "b": np.zeros((4, 5), np.float32)}
    assert [batch.rows for batch in Dataset("d", specs, Slices(**feeds)).batches()] == [1]


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 20), size=st.integers(1, 25), limit=st.integers(1, 25))
def test_the_batch_size_changes_neither_samples_nor_digest(rows: int, size: int, limit: int) -> None:
    x = np.random.default_rng(rows).normal(size=(rows, 2)).astype(np.float32)
    one = Dataset("d", X, Slices(x=x), DataOptions(batch_size=1, limit=limit))
    many = Dataset("d", X, Slices(x=x), DataOptions(batch_size=size, limit=limit))
    got = np.concatenate([batch.feeds["x"] for batch in many.batches()])
    np.testing.assert_array_equal(got, x[:limit])
    assert one.digest() == many.digest()


def test_the_digest_sees_values_names_and_types() -> None:
    x = np.ones((2, 2), np.float32)
    specs = [
        X, [InputSpec("z", F32, ("n", 2))], [InputSpec("x", np.dtype(np.float16), ("n", 2))]
    ]  # fmt: skip
    digests = [read(spec, {"x": x}).digest() for spec in specs] + [read(X, {"x": x + 1}).digest()]
    assert len(set(digests)) == 4


def test_data_that_changes_between_readings_is_refused() -> None:
    rng = np.random.default_rng(0)
    data = open_feeds("noise", lambda: [{"x": rng.normal(size=(1, 2))}], X)
    list(data.batches())
    error = refusal(data)
    assert str(error) == "noise: reading it again gave other data"
    assert "seed" in str(error.hint)


def test_strings_serve_a_string_input() -> None:
    specs = [InputSpec("s", np.dtype(object), ("n",))]
    data = read(specs, {"s": np.array(["a", "bc"])})
    assert next(data.batches()).feeds["s"].dtype == object
    assert len(data.digest()) == 64


def test_input_specs_of_a_model() -> None:
    text = """<ir_version: 3, opset_import: ["" : 13]>
    g (float[N,3] x, int64 n, float[2] w) => (float[N,3] y) <float[2] w = {1, 2}> { y = Identity(x) }"""
    specs = input_specs(ir.from_onnx_text(text))
    assert [(spec.name, str(spec), spec.required) for spec in specs] == [
        ("x", "float32[N,3]", True),
        ("n", "int64[]", True),
        ("w", "float32[2]", False),
    ]


def test_input_specs_without_shape_or_of_strings() -> None:
    inputs = [
        onnx.helper.make_tensor_value_info("s", onnx.TensorProto.STRING, [None]),
        onnx.helper.make_tensor_value_info("u", onnx.TensorProto.FLOAT, None),
    ]
    graph = onnx.helper.make_graph([], "g", inputs, [])
    specs = input_specs(ir.from_proto(onnx.helper.make_model(graph)))
    assert [str(spec) for spec in specs] == ["string[?]", "float32[...]"]
    feeds = {"s": np.array(["a"]), "u": np.ones((1, 2), np.float32)}
    assert next(read(list(specs), feeds).batches()).rows == 1


def test_an_input_without_an_element_type_is_refused() -> None:
    value = onnx.helper.make_tensor_value_info("u", onnx.TensorProto.UNDEFINED, [3])
    model = ir.from_proto(onnx.helper.make_model(onnx.helper.make_graph([], "g", [value], [])))
    with pytest.raises(DataError, match="input 'u': the model does not say the element type"):
        input_specs(model)


def test_an_input_that_is_no_tensor_is_refused() -> None:
    value = onnx.helper.make_tensor_sequence_value_info("s", onnx.TensorProto.FLOAT, None)
    model = ir.from_proto(onnx.helper.make_model(onnx.helper.make_graph([], "g", [value], [])))
    with pytest.raises(DataError, match=r"input 's': the model takes .*which no data format of onnxq holds"):
        input_specs(model)


NODES, EDGES = InputSpec("x", F32, ("nodes", 4)), InputSpec("edges", I64, (2, "edges"))
ENDS = [InputSpec(name, I64, ("edges",)) for name in ("source", "target")]


class Files:
    """A chunk of each file, as a folder of arrays gives them."""

    warning = None

    def __init__(self, files: list[dict[str, np.ndarray]]) -> None:
        self.files = files

    def count(self) -> None:
        return None

    def chunks(self) -> Iterator[Chunk]:
        for arrays in self.files:
            yield Chunk({name: ArrayRows(array) for name, array in arrays.items()}, "a file")


def graph_of(nodes: int, edges: int) -> dict[str, np.ndarray]:
    ends = np.random.default_rng(nodes).integers(0, nodes, (2, edges))
    x = np.zeros((nodes, 4), np.float32)
    return {"x": x, "edges": ends, "source": ends[0], "target": ends[1]}


@pytest.mark.parametrize("inputs", [[NODES, EDGES], [NODES, *ENDS], [NODES, EDGES, ENDS[0]]])
@pytest.mark.parametrize("sizes", [((3, 5), (4, 5), (3, 6)), ((3, 5), (3, 5))])
def test_graphs_are_neither_cut_nor_joined(
    inputs: list[InputSpec], sizes: tuple[tuple[int, int], ...]
) -> None:
    graphs = [graph_of(*size) for size in sizes]
    found = list(Dataset("graphs", inputs, Files(graphs)).batches())
    assert [batch.rows for batch in found] == [1] * len(sizes)
    for batch, graph in zip(found, graphs, strict=True):
        for name, array in batch.feeds.items():
            np.testing.assert_array_equal(array, graph[name])


def test_a_constant_of_the_same_axes_is_shared_by_samples() -> None:
    """A state of the batch on its second axis, and positions as many as tokens, count no edges."""
    state, places = InputSpec("h", F32, (2, "batch", 4)), InputSpec("p", I64, (3, "t"))
    assert Matcher([*BERT, places], DataOptions()).carriers == {"input_ids", "attention_mask"}
    assert Matcher([*X, state], DataOptions()).carriers == {"x"}
