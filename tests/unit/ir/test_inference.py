"""Shapes are inferred for each branch by itself, and what a file states wrongly of them is not believed."""

import logging
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from onnxq.comparison import CompileOptions
from onnxq.compile import compile_model
from onnxq.ir.inference import infer_all, infer_types
from onnxq.ir.text import parse
from onnxq.recipe import load_recipe
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session

TWO_BRANCHES = """<ir_version: 8, opset_import: ["" : 17]>
main (float[B,T,4] x, bool flag) => (float[] y)
{
    shape = Shape(x)
    sizes = Cast <to: int = 1> (shape)
    y = If (flag) <
        then_branch = first () => (float[] sum) {
            s = Shape(x) ones = ConstantOfShape(s) sum = ReduceSum <keepdims: int = 0> (ones) },
        else_branch = second () => (float[] sum) {
            s = Shape(sizes) ones = ConstantOfShape(s) sum = ReduceSum <keepdims: int = 0> (ones) }>
}"""


def test_a_branch_does_not_get_the_shapes_of_its_neighbour() -> None:
    """The data propagation of onnx keeps one table of names for all graphs."""
    model = infer_types(ir.from_proto(onnx.parser.parse_model(TWO_BRANCHES)))
    branches = [graph for graph in model.graphs() if graph is not model.graph]
    shapes = [
        node.outputs[0].shape for graph in branches for node in graph if node.op_type == "ConstantOfShape"
    ]
    assert [None if shape is None else len(shape) for shape in shapes] == [3, 1]
    names = [value.name for graph in model.graphs() for node in graph for value in node.outputs]
    assert len(set(names)) == len(names)
    open_session(ir.to_proto(model), Run(threads=1))


def untrue(*, output: str, inner: str = "M,7", weight: str = "4,4") -> onnx.ModelProto:
    """Return a model that states such shapes; ONNX Runtime warns and infers them itself."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    main (float[N,4] x) => (float[N,2] y)
    <float[4,4] w = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}, float[4,2] v = {1,2,3,4,5,6,7,8}>
    { m = MatMul(x, w) h = Relu(m) r = Neg(h) y = MatMul(r, v) }"""
    proto = onnx.parser.parse_model(text)
    stated = {name: _stated(name, axes) for name, axes in {"h": output, "m": inner, "w": weight}.items()}
    proto.graph.output.append(stated["h"])
    proto.graph.value_info.extend([stated["m"], stated["w"]])
    return proto


def _stated(name: str, axes: str) -> onnx.ValueInfoProto:
    shape = [int(axis) if axis.isdigit() else axis for axis in axes.split(",")]
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)


@pytest.mark.parametrize("stated", ["N,5", "N,4,N", "0,0", "4"])
def test_a_shape_that_a_file_states_wrongly_is_replaced(stated: str, tmp_path: Path) -> None:
    """Of a value within, of an output that is read within, and of a weight."""
    proto = untrue(output=stated, weight="3")
    onnx.save(proto, source := tmp_path / "m.onnx")
    made = [node.outputs[0] for node in infer_types(ir.from_proto(proto)).graph]
    assert [value.shape and list(value.shape)[1:] for value in made] == [[4], [4], [4], [2]]
    compile_model(
        source,
        tmp_path / "o.onnx",
        recipe=load_recipe("cpu-dynamic"),
        options=CompileOptions(validate=False, bench=False, tune=False, choose=False, threads=1),
    )  # raises if the result does not open


def test_shapes_are_corrected_where_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="onnx_ir")
    *_, last = infer_types(ir.from_proto(untrue(output="N,5"))).graph
    assert last.inputs[0] is not None
    assert str(last.inputs[0].shape) == "[N,4]"


def test_a_true_statement_stays_beside_an_untrue_one() -> None:
    proto = untrue(output="N,5", inner="M,4")
    made = next(iter(infer_types(ir.from_proto(proto)).graph)).outputs[0]
    assert str(made.shape) == "[M,4]"


def test_a_failure_of_inference_is_not_shown_as_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    *_, last = infer_all(ir.from_proto(untrue(output="N,5"))).graph
    assert last.inputs[0] is not None
    assert last.inputs[0].shape is None
    assert not caplog.records


def test_a_weight_tells_the_type_of_what_a_foreign_operator_makes() -> None:
    module = parse("""<ir_version: 10, opset_import: ["" : 21, "own" : 1]>
main (float[4] x) => (float[K] y) <float[2,2] w = {1, 2, 3, 4}>
{
    h = own.Op(x)
    y = MatMul(h, w)
    z = own.Op(y)
}""")
    infer_types(module.model)
    assert [node.outputs[0].dtype for node in module.graph] == [ir.DataType.FLOAT, ir.DataType.FLOAT, None]
