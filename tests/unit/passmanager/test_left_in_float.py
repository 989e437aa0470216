"""Every weight that stays in float is told, with its bytes and why."""

from onnxq.ir.text import parse
from onnxq.passmanager.left_in_float import LeftInFloat, left_in_float
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.target import find_target

GRAPH = """<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1, "custom" : 1]>
main (float[3,2,2] x, float[2,2] m, bool c)
    => (float[3,1,2,2] y, float[2,2] e, float[2,2] i, float[2,2] z, float[2,2] p)
<float[1,6,2] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12},
 float[1,6,2] r = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12},
 float[2,2] a = {1, 2, 3, 4}, float[2,2] d = {1, 2, 3, 4}, float[2,2] f = {1, 2, 3, 4},
 float[2,2] l = {1, 2, 3, 4}, float[2] bias = {1, 2}>
{
    [gru] y = GRU <hidden_size: int = 2> (x, w, r)
    [einsum] e = Einsum <equation: string = "ij,jk->ik"> (m, a)
    [branches] i = If <then_branch: graph = taken () => (float[2,2] t) {
        [inner] t = MatMul(m, d)
    }, else_branch: graph = other () => (float[2,2] o) {
        [plain] o = Identity(m)
    }> (c)
    [foreign] z = custom.Mix(m, f)
    [linear] q = MatMul(m, l)
    [biased] p = Add(q, bias)
}
"""
BODY = "it stands in the body of another operator, where no pass of the recipe quantizes"


def test_recurrent_layers_einsum_bodies_and_foreign_operators_are_told() -> None:
    module = parse(GRAPH)
    records = PassManager(
        parse_pipeline("encode-weights, quantize-lstm, insert-qdq, remove-dead"), find_target("cpu")
    ).run(module)
    assert left_in_float(module, records) == (
        LeftInFloat("GRU", 1, 96, "ONNX Runtime has no kernel on integers for it"),
        LeftInFloat("Einsum", 1, 16, "no pass of the recipe quantizes weights of Einsum"),
        LeftInFloat(
            "MatMul",
            1,
            16,
            "it stands in the body of another operator, where no pass of the recipe quantizes",
        ),
        LeftInFloat("custom.Mix", 1, 16, "it is no standard operator"),
    )


def test_scales_of_what_is_stored_are_no_weights() -> None:
    module = parse(GRAPH)
    records = PassManager(
        parse_pipeline("encode-weight-blocks, insert-qdq, fuse-block-matmul, remove-dead"),
        find_target("cpu-size"),
    ).run(module)
    assert "MatMulNBits" in {node.op_type for node in module.graph}
    told = [one for one in left_in_float(module, records) if one.operator.endswith(("MatMulNBits", "Linear"))]
    assert told == []


def test_the_reader_behind_a_sum_of_one_value_is_told() -> None:
    module = parse(
        '<ir_version: 10, opset_import: ["" : 21]> main (float[N,2] x) => (float[N,2] y) '
        "<float[2,2] w = {1, 2, 3, 4}> { [shield] s = Sum(w) [linear] y = MatMul(x, s) }"
    )
    assert [one.operator for one in left_in_float(module, [])] == ["MatMul"]


def test_what_is_added_is_no_weight_of_a_product() -> None:
    module = parse(
        """<ir_version: 10, opset_import: ["" : 21]>
        main (float[2,2] x) => (float[2,2] y) <float[2,2] places = {1, 2, 3, 4}> { y = Add(x, places) }
        """
    )
    (found,) = left_in_float(module, [])
    assert found.reason == "Add is no product of matrices, and computes in floats"
