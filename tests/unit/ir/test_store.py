import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxq.errors import InputError, ModelError
from onnxq.ir.digest import graph_digest
from onnxq.ir.inference import infer_types
from onnxq.ir.module import GraphModule
from onnxq.ir.store import foreign_operators, load_model, model_digest, save_model, write_model
from onnxq.ir.text import parse
from onnxq.ir.verify import verify

WEIGHT = np.arange(8, dtype=np.float32).reshape(2, 4)


def value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2])


def node(op_type: str, inputs: Sequence[str], output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs, [output], **attributes)


def graph(
    *nodes: onnx.NodeProto,
    inputs: Sequence[str] = ("x",),
    outputs: Sequence[str] = ("y",),
    weights: Sequence[onnx.TensorProto] = (),
    opsets: dict[str, int] | None = None,
) -> onnx.ModelProto:
    made = helper.make_graph(nodes, "g", [value(n) for n in inputs], [value(n) for n in outputs], weights)
    imports = [helper.make_opsetid(domain, version) for domain, version in (opsets or {"": 21}).items()]
    return helper.make_model(made, opset_imports=imports, ir_version=10)


def matmul(weight: np.ndarray = WEIGHT) -> onnx.ModelProto:
    return graph(node("MatMul", ["x", "w"], "y"), weights=[numpy_helper.from_array(weight, "w")])


def written(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


def with_data(folder: Path, location: str = "w.bin", offset: str = "0", length: str = "32") -> Path:
    """Write a model whose weight ``w`` is said to lie at ``location``, and the file w.bin."""
    model = matmul()
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, text in (("location", location), ("offset", offset), ("length", length)):
        weight.external_data.add(key=key, value=text)
    (folder / "w.bin").write_bytes(WEIGHT.tobytes())
    return written(model, folder / "m.onnx")


def refusal(path: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        load_model(path)
    assert str(path) in str(caught.value.where)
    return caught.value


def weight_of(module: GraphModule, name: str = "w") -> np.ndarray:
    tensor = module.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def test_a_model_is_read_with_its_metadata_and_is_valid(tmp_path: Path) -> None:
    model = matmul()
    helper.set_model_props(model, {"author": "someone"})
    module = load_model(written(model, tmp_path / "m.onnx"))
    verify(module)
    assert module.model.metadata_props == {"author": "someone"}
    np.testing.assert_array_equal(weight_of(module), WEIGHT)


def test_a_folder_with_umlauts_and_spaces_works(tmp_path: Path) -> None:
    folder = tmp_path / "größe 模型"
    folder.mkdir()
    assert weight_of(load_model(with_data(folder))).tolist() == WEIGHT.tolist()


def test_the_long_name_of_the_standard_domain_becomes_the_short_one(tmp_path: Path) -> None:
    model = graph(node("Relu", ["x"], "y"), opsets={"ai.onnx": 15})
    module = load_model(written(model, tmp_path / "m.onnx"))
    assert module.opset == 15
    verify(module)


def test_nodes_without_name_are_named_after_their_output_and_namesakes_are_numbered(tmp_path: Path) -> None:
    nodes = [
        node("Relu", ["x"], "a"),
        node("Relu", ["a"], "b", name="same"),
        node("Relu", ["b"], "y", name="same"),
    ]
    module = load_model(written(graph(*nodes), tmp_path / "m.onnx"))
    assert [n.name for n in module.graph] == ["a", "same", "same_1"]


def test_a_made_up_name_does_not_collide_with_a_given_one(tmp_path: Path) -> None:
    nodes = [node("Relu", ["x"], "a"), node("Relu", ["a"], "y", name="a")]
    module = load_model(written(graph(*nodes), tmp_path / "m.onnx"))
    assert [n.name for n in module.graph] == ["a_1", "a"]


def test_an_output_that_is_left_out_stays_left_out(tmp_path: Path) -> None:
    pool = helper.make_node("LSTM", ["x", "w", "r"], ["", "y"], hidden_size=1)
    weights = [
        numpy_helper.from_array(np.ones(s, np.float32), n) for n, s in (("w", (1, 4, 2)), ("r", (1, 4, 1)))
    ]
    model = graph(pool, weights=weights)
    module = load_model(written(model, tmp_path / "m.onnx"))
    save_model(module, tmp_path / "out.onnx")
    assert list(onnx.load(tmp_path / "out.onnx").graph.node[0].output) == ["", "y"]


def test_an_axis_of_length_minus_one_is_one_of_any_length(tmp_path: Path) -> None:
    """ONNX Runtime takes a negative length so, too; a length of 0 is a length."""
    shape = [-1, "N", 0, 4]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    branch = helper.make_graph([node("Neg", ["x"], "b")], "branch", [], [y])
    branch.output[0].name = "b"
    nodes = [
        helper.make_node("If", ["flag"], ["z"], then_branch=branch, else_branch=branch),
        node("Relu", ["z"], "y"),
    ]
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, shape)
    made = helper.make_graph(nodes, "g", [x, flag], [y], value_info=[z])
    imports = [helper.make_opsetid("", 21)]
    path = written(helper.make_model(made, opset_imports=imports, ir_version=10), tmp_path / "m.onnx")

    model = load_model(path).model
    inner = [value for graph in model.graphs() for one in graph for value in one.outputs]
    shapes = [value.shape for value in (model.graph.inputs[0], *inner) if value.shape is not None]
    assert len(shapes) == 5
    assert all(list(shape) == [ir.SymbolicDim(None), ir.SymbolicDim("N"), 0, 4] for shape in shapes)


def test_a_weight_that_is_an_output_with_open_axes_has_the_shape_of_its_numbers(tmp_path: Path) -> None:
    module = load_model(written(_with_output("w", matmul()), tmp_path / "m.onnx"))
    assert module.graph.initializers["w"].shape == ir.Shape([2, 4])


def test_a_model_of_an_old_ir_version_may_have_weights_that_are_no_inputs(tmp_path: Path) -> None:
    model = graph(node("Relu", ["x"], "y"))
    model.ir_version = 3
    module = load_model(written(model, tmp_path / "m.onnx"))
    assert module.model.ir_version == 4


def _with_output(name: str, model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", None]))
    return model


def test_a_missing_file_is_an_error_that_names_a_similar_one(tmp_path: Path) -> None:
    written(matmul(), tmp_path / "model.onnx")
    error = refusal(tmp_path / "modle.onnx")
    assert error.message == "there is no such file"
    assert error.hint == "did you mean 'model.onnx'?"


def test_a_folder_is_an_error_that_names_what_lies_in_it(tmp_path: Path) -> None:
    assert refusal(tmp_path).message == "this is a folder, not a model file"
    (tmp_path / "config.json").write_text("{}")
    assert refusal(tmp_path).hint == f"export the model in it first: onnxq export {tmp_path} -o DIR"
    written(matmul(), tmp_path / "model.onnx")
    assert refusal(tmp_path).hint == f"name the file in it: {tmp_path / 'model.onnx'}"


def test_an_unreadable_path_is_an_error(tmp_path: Path) -> None:
    error = refusal(tmp_path / ("x" * 300))
    assert error.message == "the file cannot be read: File name too long"
    assert error.hint == "check its name and permissions"


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").touch()
    assert refusal(tmp_path / "m.onnx").message == "the file is empty"


def test_a_file_above_the_limit_of_protobuf_is_an_error(tmp_path: Path) -> None:
    with (tmp_path / "m.onnx").open("wb") as file:
        file.truncate(2**31)
    error = refusal(tmp_path / "m.onnx")
    assert error.message == "the file is larger than protobuf's 2 GiB"
    assert "external data" in str(error.hint)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04rest", "this is not an ONNX model: it is a zip archive"),
        (b"version https://git-lfs.github.com/spec/v1", "this is not an ONNX model: it is a Git LFS pointer"),
        (b"\x89PNG\r\n\x1a\n", "this is not an ONNX model: it is a PNG image"),
        (b"<!DOCTYPE html>", "this is not an ONNX model: it is a web page"),
        (b"\x1f\x8b\x08", "this is not an ONNX model: it is a gzip archive"),
        (b"hello, world\n", "this is not an ONNX model, or it was cut short"),
        (
            b"\x08\x0a",
            "this is not an ONNX model, or it was cut short",
        ),  # parses: ir_version and nothing else
    ],
)
def test_other_files_are_told_apart(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    error = refusal(tmp_path / "m.onnx")
    assert error.message.startswith(message)
    assert error.hint


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_an_error(tmp_path: Path, keep: float) -> None:
    content = matmul().SerializeToString()
    (tmp_path / "m.onnx").write_bytes(content[: int(len(content) * keep)])
    refusal(tmp_path / "m.onnx")


RELU = node("Relu", ["x"], "y", name="r")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (graph(RELU, RELU), "'y' is redeclared"),
        (graph(RELU, inputs=("x", "x")), "'x' has been used as graph input names multiple times"),
        (graph(RELU, weights=[numpy_helper.from_array(WEIGHT, "w")] * 2), "w initializer name is not unique"),
        (graph(node("Relu", ["z"], "y", name="r")), "input 'z' of node: name: r OpType: Relu is not output"),
        (graph(node("Add", ["x", "y"], "t"), node("Relu", ["t"], "y")), "must be topologically sorted"),
        (graph(RELU, outputs=("q",)), "'q' is not an output of any node"),
        (graph(node("Relu", ["x", "x"], "y")), "input size 2 not in range"),
    ],
)
def test_an_invalid_graph_is_an_error(tmp_path: Path, model: onnx.ModelProto, message: str) -> None:
    error = refusal(written(model, tmp_path / "m.onnx"))
    assert error.message.startswith("the graph is not valid: ")
    assert message in error.message
    assert error.hint


@pytest.mark.parametrize("text", [b"producer", b"someone", b"weight", b"note"])
def test_text_that_is_not_utf8_is_an_error(tmp_path: Path, text: bytes) -> None:
    model = graph(node("MatMul", ["x", "weight"], "y"), weights=[numpy_helper.from_array(WEIGHT, "weight")])
    model.producer_name, model.graph.doc_string = "producer", "note"
    helper.set_model_props(model, {"author": "someone"})
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString().replace(text, b"\xff" * len(text)))
    assert refusal(path).message.startswith("the graph is not valid: ")


@pytest.mark.parametrize(
    ("type_", "message"), [(90, "90 is not a valid DataType"), (0, "a tensor has no type")]
)
def test_an_unknown_type_is_an_error(tmp_path: Path, type_: int, message: str) -> None:
    model = matmul()
    model.graph.initializer.add(name="v", data_type=type_, dims=[2], raw_data=b"1234")
    assert message in refusal(written(model, tmp_path / "m.onnx")).message


def test_a_model_without_outputs_is_an_error(tmp_path: Path) -> None:
    error = refusal(written(graph(RELU, outputs=()), tmp_path / "m.onnx"))
    assert error.message == "the model has no outputs"


def test_an_unknown_standard_operator_is_an_error(tmp_path: Path) -> None:
    error = refusal(written(graph(node("Rleu", ["x"], "y", name="n")), tmp_path / "m.onnx"))
    assert "No Op registered for Rleu" in error.message
    assert "has no standard operator 'Rleu'" in str(error.hint)


def test_a_newer_opset_is_an_error(tmp_path: Path) -> None:
    error = refusal(written(graph(RELU, opsets={"": 999}), tmp_path / "m.onnx"))
    assert error.message.startswith("the model uses opset 999, and the installed onnx")
    assert error.hint == "pip install --upgrade onnx"


def test_a_newer_ir_version_is_an_error(tmp_path: Path) -> None:
    model = graph(RELU)
    model.ir_version = 999
    error = refusal(written(model, tmp_path / "m.onnx"))
    assert "ir_version 999 is higher" in error.message
    assert error.hint == "pip install --upgrade onnx"


def test_sparse_weights_are_an_error(tmp_path: Path) -> None:
    model = graph(RELU)
    values, indices = numpy_helper.from_array(WEIGHT[0], "s"), numpy_helper.from_array(np.arange(4))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [8]))
    assert refusal(written(model, tmp_path / "m.onnx")).message == "sparse weights are not supported"


def test_operators_of_other_domains_are_read_and_remarked(tmp_path: Path) -> None:
    nodes = [node("Foo", ["x"], "t", name="f", domain="mine"), node("Relu", ["t"], "y", name="r")]
    module = load_model(written(graph(*nodes, opsets={"": 21, "mine": 1}), tmp_path / "m.onnx"))
    (remark,) = foreign_operators(module)
    assert (remark.node, remark.op_type) == ("f", "Foo")
    assert remark.reason == "domain 'mine' is not standard ONNX"


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(("bad", "what"), [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite")])
def test_a_weight_that_is_not_finite_is_an_error(tmp_path: Path, dtype: type, bad: float, what: str) -> None:
    weight = WEIGHT.astype(dtype)
    weight[1, 2] = bad
    error = refusal(written(matmul(weight), tmp_path / "m.onnx"))
    assert str(error.where).endswith("initializer 'w'")
    assert error.message.startswith(f"the weight holds {what}")


def test_a_mask_may_hold_infinities(tmp_path: Path) -> None:
    mask = numpy_helper.from_array(np.array([0, -np.inf], np.float32), "w")
    load_model(written(graph(node("Add", ["x", "w"], "y"), weights=[mask]), tmp_path / "m.onnx"))


def test_nan_in_external_data_is_found_in_the_last_block(tmp_path: Path) -> None:
    weight = np.zeros((2, 3_000_000), np.float32)
    weight[-1, -1] = np.nan
    onnx.save(matmul(weight), tmp_path / "m.onnx", save_as_external_data=True, location="w.bin")
    assert refusal(tmp_path / "m.onnx").message == "the weight holds NaN"


def test_external_data_is_read(tmp_path: Path) -> None:
    module = load_model(with_data(tmp_path))
    np.testing.assert_array_equal(weight_of(module), WEIGHT)
    # A small tensor is in memory: onnx's shape inference looks for its file in the working folder.
    assert not isinstance(module.graph.initializers["w"].const_value, ir.ExternalTensor)


def test_external_data_is_found_from_any_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    module = load_model(Path("m.onnx"))
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(weight_of(module), WEIGHT)


@pytest.mark.parametrize(
    "location", ["../secret.bin", "sub/../../secret.bin", "{folder}/../secret.bin", "/dev/zero"]
)
def test_data_outside_the_models_folder_is_not_read(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(WEIGHT.tobytes())
    error = refusal(with_data(folder, location.format(folder=folder)))
    assert "lies outside the model's folder and is not read" in error.message
    assert "tensor 'w'" in str(error.where)


def test_a_link_that_leaves_the_models_folder_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(WEIGHT.tobytes())
    (folder / "link.bin").symlink_to("../secret.bin")
    assert "lies outside the model's folder" in refusal(with_data(folder, "link.bin")).message


def test_a_hard_link_is_not_read(tmp_path: Path) -> None:
    path = with_data(tmp_path, "hard.bin")
    os.link(tmp_path / "w.bin", tmp_path / "hard.bin")
    assert "has a second name (a hard link) and is not read" in refusal(path).message


def test_missing_and_short_data_are_errors(tmp_path: Path) -> None:
    path = with_data(tmp_path)
    (tmp_path / "w.bin").write_bytes(b"short")
    assert refusal(path).message == ("its data file 'w.bin' is too short: 5 bytes, but the tensor ends at 32")
    (tmp_path / "w.bin").unlink()
    assert refusal(path).message == "its data file 'w.bin' is missing"


def test_a_negative_offset_is_an_error(tmp_path: Path) -> None:
    assert "must be non-negative" in refusal(with_data(tmp_path, offset="-4")).message


@pytest.mark.parametrize("length", ["16", "64"])
def test_a_length_that_does_not_fit_is_an_error(tmp_path: Path, length: str) -> None:
    error = refusal(with_data(tmp_path, length=length))
    assert error.message == f"its place in 'w.bin' (offset 0, length {length}) does not fit its 32 bytes"


def test_external_data_of_a_constant_node_ends_up_in_the_saved_model(tmp_path: Path) -> None:
    constant = node("Constant", [], "w", value=numpy_helper.from_array(WEIGHT, "w"))
    model = graph(constant, node("MatMul", ["x", "w"], "y"))
    (tmp_path / "in").mkdir()
    onnx.save(
        model, tmp_path / "in" / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0,
        convert_attribute=True,
    )  # fmt: skip
    assert (tmp_path / "in" / "w.bin").is_file()
    save_model(load_model(tmp_path / "in" / "m.onnx"), tmp_path / "out.onnx")
    shutil.rmtree(tmp_path / "in")
    stored = onnx.load(tmp_path / "out.onnx").graph.node[0].attribute[0].t
    np.testing.assert_array_equal(numpy_helper.to_array(stored), WEIGHT)


@pytest.mark.parametrize("external_data", [False, True])
def test_a_saved_model_is_the_same_model(tmp_path: Path, external_data: bool) -> None:
    weight = np.random.default_rng(0).normal(size=(2, 1000)).astype(np.float32)
    module = load_model(written(matmul(weight), tmp_path / "m.onnx"))
    before = graph_digest(module)
    save_model(module, tmp_path / "out.onnx", external_data=external_data)
    assert (tmp_path / "out.onnx.data").exists() == external_data
    assert graph_digest(load_model(tmp_path / "out.onnx")) == before == graph_digest(module)


def test_the_bytes_do_not_depend_on_where_weights_came_from_or_their_order(tmp_path: Path) -> None:
    weights = [numpy_helper.from_array(WEIGHT, "w"), numpy_helper.from_array(WEIGHT.T.copy(), "v")]
    nodes = [node("MatMul", ["x", "w"], "t"), node("MatMul", ["t", "v"], "y")]
    for name, order in (("a", weights), ("b", weights[::-1])):
        model = graph(*nodes, weights=order)
        onnx.save(
            model,
            tmp_path / f"{name}.onnx",
            save_as_external_data=name == "b",
            location="d.bin",
            size_threshold=0,
        )
        for kind in (False, True):
            out = tmp_path / f"{name}{kind}"
            out.mkdir()
            save_model(load_model(tmp_path / f"{name}.onnx"), out / "o.onnx", external_data=kind)
    assert model_digest(tmp_path / "aFalse/o.onnx") == model_digest(tmp_path / "bFalse/o.onnx")
    assert model_digest(tmp_path / "aTrue/o.onnx") == model_digest(tmp_path / "bTrue/o.onnx")


def test_external_weights_are_embedded_when_the_model_is_small(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    save_model(load_model(with_data(folder)), tmp_path / "out.onnx")
    shutil.rmtree(folder)
    np.testing.assert_array_equal(weight_of(load_model(tmp_path / "out.onnx")), WEIGHT)


@pytest.mark.parametrize("external_data", [False, True])
def test_the_input_model_is_not_overwritten(tmp_path: Path, external_data: bool) -> None:
    path = with_data(tmp_path)
    module = load_model(path)
    with pytest.raises(InputError, match="the model that is being read") as caught:
        save_model(module, path, source=path, external_data=external_data)
    assert caught.value.hint == "write to another file"
    assert str(path) in str(caught.value.where)


def test_the_input_models_data_are_not_overwritten(tmp_path: Path) -> None:
    path = with_data(tmp_path, "out.onnx.data")
    (tmp_path / "w.bin").rename(tmp_path / "out.onnx.data")
    with pytest.raises(InputError, match="the model that is being read"):
        save_model(load_model(path), tmp_path / "out.onnx", source=path, external_data=True)


def test_an_older_model_with_data_is_replaced_together(tmp_path: Path) -> None:
    big = np.ones((2, 1000), np.float32)
    for factor in (1, 2):
        module = load_model(written(matmul(factor * big), tmp_path / "m.onnx"))
        save_model(module, tmp_path / "out.onnx", external_data=True)
    np.testing.assert_array_equal(weight_of(load_model(tmp_path / "out.onnx")), 2 * big)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "out.onnx", "out.onnx.data"]


@pytest.mark.shared
def test_real_models_survive_reading_and_writing(assets: Path, tmp_path: Path) -> None:
    for path in sorted((assets / "models").glob("*.onnx")):
        module = load_model(path)
        verify(module)
        save_model(module, tmp_path / "a.onnx")
        again = load_model(tmp_path / "a.onnx")
        assert graph_digest(again) == graph_digest(module), path.name
        save_model(again, tmp_path / "b.onnx")
        assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_weights_are_not_copied_each_time_they_are_read(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(WEIGHT, "c"))
    model = matmul()
    model.graph.node.insert(0, constant)
    module = load_model(written(model, tmp_path / "m.onnx"))
    stored = module.graph.node(0).attributes["value"].as_tensor()
    assert np.shares_memory(weight_of(module), weight_of(module))
    assert np.shares_memory(stored.numpy(), stored.numpy())


def test_what_a_tensor_says_of_itself_is_not_said_again(tmp_path: Path) -> None:
    module = parse(
        '<ir_version: 10, opset_import: ["" : 21]> main (float[N,2] x) => (float[N,2] y) '
        "<float[2,2] w = {1, 2, 3, 4}> { h = MatMul(x, w) y = Relu(h) }"
    )
    infer_types(module.model)
    path = tmp_path / "model.onnx"
    write_model(module, [path])
    assert [value.name for value in onnx.load(path).graph.value_info] == ["h"]
