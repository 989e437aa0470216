"""Shapes are inferred for each branch by itself."""

import onnx
import onnx_ir as ir

from onnxq.ir.inference import infer_types
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
