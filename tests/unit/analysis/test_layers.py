"""Linear layers: what is one, and what it reads and gives."""

import math

import pytest

from onnxq.analysis.layers import Layer, layer_of, linear_layers
from onnxq.ir.module import GraphModule
from onnxq.ir.text import parse

HEADER = '<ir_version: 10, opset_import: ["" : 21]>'


def module_of(graph: str) -> GraphModule:
    return parse(f"{HEADER}\n{graph}")


def only_layer(module: GraphModule) -> Layer:
    (layer,) = linear_layers(module)
    return layer


@pytest.mark.parametrize(
    ("operator", "shape", "axis"),
    [
        ("MatMul(x, w)", "2,3", 1),
        ("MatMul(x, w)", "5,2,3", 2),
        ("Gemm(x, w)", "2,3", 1),
        ("Gemm <transB: int = 1> (x, w)", "3,2", 0),
        ("Conv(x, w)", "3,2,1", 0),
        ("ConvTranspose(x, w)", "2,3,1", 1),
    ],
)
def test_the_channel_axis_counts_outputs(operator: str, shape: str, axis: int) -> None:
    numbers = ", ".join(["1"] * math.prod(map(int, shape.split(","))))
    weight = f"float[{shape}] w = {{{numbers}}}"
    layer = only_layer(
        module_of(f"main (float[N] x) => (float[N] y) <{weight}> {{ [layer] y = {operator} }}")
    )
    assert (layer.node.name, layer.activation.name, layer.weight.name) == ("layer", "x", "w")
    assert layer.bias is None
    assert layer.output.name == "y"
    assert layer.channel_axis == axis


def test_an_absent_bias_is_none() -> None:
    weight = "<float[2,2] w = {1, 2, 3, 4}, float[2] b = {1, 2}>"
    with_bias = module_of(f"main (float[N,2] x) => (float[N,2] y) {weight} {{ y = Gemm(x, w, b) }}")
    assert only_layer(with_bias).bias is with_bias.value("b")
    without = module_of(f'main (float[N,2] x) => (float[N,2] y) {weight} {{ y = Gemm(x, w, "") }}')
    assert only_layer(without).bias is None


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        ("MatMul(x, x)", "both of its inputs are computed at run time"),
        ("MatMul(w, x)", "its first input is a constant"),
        ("MatMul(w, w)", "its first input is a constant"),
        ("MatMul(h, half)", "it does not compute in float32"),
        ("MatMul(x, vector)", "its weight has fewer than two axes"),
        ("Gemm <transA: int = 1> (x, w)", "it reads its input transposed"),
    ],
)
def test_the_reason_why_a_node_is_no_layer(node: str, reason: str) -> None:
    weights = "float[2,2] w = {1, 2, 3, 4}, float16[2,2] half = {0, 0, 0, 0}, float[2] vector = {1, 2}"
    module = module_of(f"main (float[2,2] x, float16[2,2] h) => (float[2,2] y) <{weights}> {{ y = {node} }}")
    (found,) = module.graph
    assert layer_of(found) == reason
    assert not list(linear_layers(module))


def test_behind_an_unknown_operator_the_type_is_unknown_and_not_another_one() -> None:
    module = module_of(
        """main (float[2,2] x) => (float[2,2] y) <float[2,2] w = {1, 2, 3, 4}>
        { a = another.domain.Operator(x) y = MatMul(a, w) }"""
    )
    _, product = module.graph
    assert layer_of(product) == "the type of its input is not known"


CLAMPED = """main (float[N,1,4] x) => (float[N,1,4] y{more})
<float[1,1,1] w = {{1}}, float zero = {{0}}, float one = {{1}}, float six = {{6}}>
{{ c = Conv(x, w) {after} }}"""


@pytest.mark.parametrize(
    ("after", "more", "clamped"),
    [
        ("y = Relu(c)", "", "y"),
        ("y = Clip(c, zero, six)", "", "y"),
        ("y = Clip(c, zero)", "", "y"),
        ("y = Clip(c, one, six)", "", "c"),
        ("y = Clip(c)", "", "c"),
        ("y = Clip(c, , six)", "", "c"),
        ("y = Tanh(c)", "", "c"),
        ("r = Relu(c) y = Add(r, c)", "", "c"),
        ("y = Relu(c)", ", float[N,1,4] c", "c"),
    ],
)
def test_a_relu_counts_to_the_layer_that_only_it_reads(after: str, more: str, clamped: str) -> None:
    layer = only_layer(module_of(CLAMPED.format(after=after, more=more)))
    assert layer.clamped_output.name == clamped


def test_layers_in_branches_are_not_listed() -> None:
    module = module_of(
        """main (float[N,2] x, bool on) => (float[N,2] y) <float[2,2] w = {1, 2, 3, 4}>
        {
            h = MatMul(x, w)
            y = If (on) <
                then_branch = yes () => (float[N,2] t) { [inner] t = MatMul(h, w) },
                else_branch = no () => (float[N,2] f) { f = Relu(h) }
            >
        }"""
    )
    layer = only_layer(module)
    assert layer.node.name == "h"
    assert layer.clamped_output is layer.output
