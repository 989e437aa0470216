"""Damaged and hostile models are the user's side: one clear error, in little time and memory."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxq.errors import ModelError, PassError
from onnxq.ir.digest import graph_digest
from onnxq.ir.store import load_model, model_digest
from onnxq.limits import INLINED_NODES
from onnxq.runtime.validity import only_valid

Change = Callable[[onnx.TensorProto], object]


def info(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3])


def model(
    nodes: Sequence[onnx.NodeProto],
    weights: Sequence[onnx.TensorProto] = (),
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    made = helper.make_graph(nodes, "g", [info("x")], [info("y")], weights)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    return helper.make_model(made, opset_imports=imports, functions=functions, ir_version=8)


def matmul() -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.ones((3, 3), np.float32), "w")
    return model([helper.make_node("MatMul", ["x", "w"], ["y"], name="mm")], [weight])


def refusal(proto: onnx.ModelProto, folder: Path) -> ModelError:
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError) as caught:
        load_model(path)
    assert str(caught.value.where).startswith(str(path))
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: setattr(tensor, "raw_data", tensor.raw_data[:-4]),
        lambda tensor: setattr(tensor, "raw_data", tensor.raw_data + b"more"),
        lambda tensor: tensor.dims.__setitem__(0, 10**6),
        lambda tensor: tensor.dims.__setitem__(0, 10**12),
        lambda tensor: tensor.dims.extend([1] * 80),
        lambda tensor: setattr(tensor, "data_type", TensorProto.DOUBLE),
        lambda tensor: (setattr(tensor, "data_type", TensorProto.INT4), tensor.dims.__setitem__(0, 10**9)),
        lambda tensor: (tensor.ClearField("raw_data"), tensor.int64_data.extend(range(9))),
    ],
)
def test_a_tensor_whose_bytes_do_not_fit_is_named(change: Change, tmp_path: Path) -> None:
    proto = matmul()
    change(proto.graph.initializer[0])
    error = refusal(proto, tmp_path)
    assert error.where == f"{tmp_path / 'm.onnx'}, tensor 'w'"
    assert error.message.startswith("its bytes do not fit its type and shape, ")
    assert error.hint == "the file is damaged: copy it again, or export the model again"


@pytest.mark.parametrize("data_type", [0, 26, 99, -1])
def test_a_tensor_of_no_type_is_refused(data_type: int, tmp_path: Path) -> None:
    proto = matmul()
    proto.graph.initializer[0].data_type = data_type
    assert refusal(proto, tmp_path).message


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "w\0.bin"}, "'w\\x00.bin' is no name of a data file"),
        ({"location": ""}, "'' is no name of a data file"),
        ({"location": "w.bin", "offset": "-4"}, "offset must be non-negative"),
        ({"location": "w.bin", "length": "-36"}, "length must be non-negative"),
        ({"location": "w.bin", "length": "9" * 30}, "does not fit its 36 bytes"),
        ({"location": "w.bin", "offset": "9" * 30}, "is too short"),
        ({"location": "w.bin", "offset": "four"}, "the graph is not valid"),
        ({"location": "w.bin"}, "an axis of its shape [-3, 3] is negative"),
        ({"location": "../w.bin"}, "lies outside the model's folder"),
        ({"location": "w" * 5000}, "File name too long"),
    ],
)
def test_a_data_file_with_an_absurd_place_is_refused(
    entries: dict[str, str], message: str, tmp_path: Path
) -> None:
    proto = matmul()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in entries.items():
        tensor.external_data.add(key=key, value=text)
    (tmp_path / "w.bin").write_bytes(bytes(36))
    tensor.dims[0] = -3 if message.startswith("an axis") else 3
    assert message in refusal(proto, tmp_path).message
    with pytest.raises(ModelError):
        model_digest(tmp_path / "m.onnx")


def test_one_infinite_element_is_refused_where_it_is_a_weight(tmp_path: Path) -> None:
    proto = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [numpy_helper.from_array(np.array([[np.inf]], np.float32), "w")],
    )
    error = refusal(proto, tmp_path)
    assert error.message == "the weight holds infinite values"


def test_a_layer_that_multiplies_by_infinity_is_refused(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((3, 3), np.float32), "w")
    gemm = helper.make_node("Gemm", ["x", "w"], ["y"], name="g", alpha=-np.inf)
    error = refusal(model([gemm], [weight]), tmp_path)
    assert (error.message, error.where) == ("its alpha is -inf", f"{tmp_path / 'm.onnx'}, node 'g'")


def test_a_function_without_a_domain_is_refused(tmp_path: Path) -> None:
    imports = [helper.make_opsetid("", 17)]
    relu = helper.make_node("Relu", ["a"], ["b"])
    function = helper.make_function("", "F", ["a"], ["b"], [relu], imports)
    error = refusal(model([helper.make_node("Neg", ["x"], ["y"])], functions=[function]), tmp_path)
    assert (error.message, error.where) == ("it has no domain", f"{tmp_path / 'm.onnx'}, function 'F'")


def test_an_output_of_two_types_is_refused(tmp_path: Path) -> None:
    proto = matmul()
    proto.graph.output.append(info("y"))
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    load_model(tmp_path / "m.onnx")
    proto.graph.output.append(helper.make_tensor_value_info("y", TensorProto.INT8, ["N", 3]))
    error = refusal(proto, tmp_path)
    assert error.message == "it is listed more than once, with different types"
    assert error.where == f"{tmp_path / 'm.onnx'}, output 'y'"


def test_a_parameter_outside_of_a_function_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("LeakyRelu", ["x"], ["y"], name="r", alpha=0.5)
    node.attribute[0].ClearField("f")
    node.attribute[0].ref_attr_name = "slope"
    assert refusal(model([node]), tmp_path).message


def function(name: str, called: str, times: int = 1, domain: str = "f") -> onnx.FunctionProto:
    names = ["a", *(f"t{i}" for i in range(times - 1)), "b"]
    nodes = [
        helper.make_node(called, [names[i]], [names[i + 1]], domain=domain if called != "Relu" else "")
        for i in range(times)
    ]
    return helper.make_function(
        "f", name, ["a"], ["b"], nodes, [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    )


def call(name: str, inputs: Sequence[str] = ("x",), outputs: Sequence[str] = ("y",)) -> onnx.NodeProto:
    return helper.make_node(name, inputs, outputs, domain="f", name="call")


def test_a_call_with_too_many_inputs_or_outputs_is_refused(tmp_path: Path) -> None:
    error = refusal(model([call("F", ["x", "x"])], functions=[function("F", "Relu")]), tmp_path)
    assert error.where == f"{tmp_path / 'm.onnx'}, node 'call'"
    assert error.message == "it has 2 inputs, and its function 'F' has 1"
    error = refusal(model([call("F", outputs=["y", "z"])], functions=[function("F", "Relu")]), tmp_path)
    assert error.message == "it has 2 outputs, and its function 'F' has 1"


def test_functions_that_call_themselves_are_refused(tmp_path: Path) -> None:
    refusal(model([call("F")], functions=[function("F", "F")]), tmp_path)
    refusal(model([call("F")], functions=[function("F", "G"), function("G", "F")]), tmp_path)


def test_functions_that_inline_to_millions_of_nodes_are_refused_unless_the_limit_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubling = [function("F0", "Relu", 2), *(function(f"F{i}", f"F{i - 1}", 2) for i in range(1, 22))]
    proto = model([call("F21")], functions=doubling)
    error = refusal(proto, tmp_path)
    assert error.message == "with its functions inlined it has 4,194,304 nodes, and the limit is 32,768"
    assert error.hint == "if you trust the file, raise the limit: ONNXQ_MAX_INLINED_NODES=4194304"
    monkeypatch.setenv(INLINED_NODES.variable, "4194304")
    load_model(tmp_path / "m.onnx")


def test_the_digest_of_nested_branches_takes_no_more_time_for_each_level(tmp_path: Path) -> None:
    untyped = onnx.ValueInfoProto(name="o", type=helper.make_tensor_type_proto(TensorProto.FLOAT, None))

    def branch(nodes: Sequence[onnx.NodeProto]) -> onnx.GraphProto:
        return helper.make_graph(
            nodes, "b", [], [onnx.ValueInfoProto(name=nodes[-1].output[0], type=untyped.type)]
        )

    inner = [helper.make_node("Identity", ["x"], ["leaf"])]
    for level in range(24):
        other = branch([helper.make_node("Identity", ["x"], [f"e{level}"])])
        node = helper.make_node("If", ["c"], [f"o{level}"], then_branch=branch(inner), else_branch=other)
        inner = [node]
    inner[0].output[0] = "y"
    path = tmp_path / "m.onnx"
    path.write_bytes(model(inner, [numpy_helper.from_array(np.array(True), "c")]).SerializeToString())
    start = time.perf_counter()
    graph_digest(load_model(path))
    assert time.perf_counter() - start < 5  # at 24 levels, doubled at each, it would be minutes


def test_what_stands_beside_a_weight_gives_way_to_the_weight(tmp_path: Path) -> None:
    proto = matmul()
    proto.graph.value_info.append(helper.make_tensor_value_info("w", TensorProto.INT8, [7, 7, 7]))
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    weight = load_model(tmp_path / "m.onnx").graph.initializers["w"]
    assert str(weight.shape) == "[3,3]"
    assert weight.dtype == TensorProto.FLOAT
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 7]))
    assert refusal(proto, tmp_path).message == "its default is float[3, 3], which it does not allow"


def test_a_pass_that_fails_on_a_model_that_is_not_valid_is_not_to_blame(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((7, 3), np.float32), "w")
    proto = model([helper.make_node("MatMul", ["x", "w"], ["y"])], [weight])
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError) as caught, only_valid(tmp_path / "m.onnx"):
        raise PassError("it broke", where="pass 3 (some-pass)")
    assert caught.value.message.startswith("the model is not valid: ONNX Runtime cannot load it")
    assert caught.value.hint == "export the model again; what stopped at it: pass 3 (some-pass): it broke"
    proto = model([helper.make_node("Gemm", ["x", "w"], ["y"], name="g")], [weight])
    proto.opset_import[0].version = 11
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError) as caught, only_valid(tmp_path / "m.onnx"):
        raise PassError("it broke", where="pass 3 (some-pass)")
    reason = "Gemm 'g' cannot run, as axis 1 of 'x' is of length 3, and axis 0 of 'w' asks for 7"
    assert caught.value.message == f"the model is not valid: {reason}"
    (tmp_path / "m.onnx").write_bytes(matmul().SerializeToString())
    with pytest.raises(PassError, match="it broke"), only_valid(tmp_path / "m.onnx"):
        raise PassError("it broke", where="pass 3 (some-pass)")
