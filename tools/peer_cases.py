"""The models that onnxruntime's own quantization tests build, written again from what the tests say.

Taken from each test are facts alone: operators, shapes, attributes, operator set, the range of weights and
inputs, how many calibration samples, and whether it quantizes with data (static), at run time (dynamic) or by
blocks. A case's name begins with the test's file, ``test_`` left out. Weights are the inputs with a name in
capital letters.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from peer_draws import Array, Draw, constant, either, integers, normal, uniform

ROWS = 5
"""How long an axis is that the model leaves open."""
STATIC, DYNAMIC, BLOCKS, BYTES = "static", "dynamic", "4 bits", "8 bits"


SIGNS = integers(-1, 1)
SMALL = normal(0, 0.1)


@dataclass(frozen=True)
class Case:
    """One model, the data it is calibrated and compared on, and how near the result has to be.

    Args:
        name: The test's file, and which of its models.
        graph: Signature and body in ONNX's text form.
        opset: The operator set.
        modes: How the test quantizes.
        inputs: What inputs are drawn from.
        weights: What weights are drawn from; those that ``named`` has are not.
        named: What single inputs and weights are drawn from.
        samples: How many calibration samples; the comparison is on the first.
        forced: The test has operators quantized that have no quantized neighbour.
        rtol: Of the test.
        atol: Of the test.

    """

    name: str
    graph: str
    opset: int = 13
    modes: tuple[str, ...] = (STATIC,)
    inputs: Draw = SIGNS
    weights: Draw = SMALL
    named: Mapping[str, Draw] = field(default_factory=dict)
    samples: int = 1
    forced: bool = False
    rtol: float = 1e-2
    atol: float = 0.05

    def model(self) -> onnx.ModelProto:
        """Return the model; the same one each time."""
        domains = f'"" : {self.opset}' + (', "com.microsoft" : 1' if "com.microsoft" in self.graph else "")
        head = f"<ir_version: {8 if self.opset < 21 else 10}, opset_import: [{domains}]>"
        proto = onnx.parser.parse_model(f"{head} main {self.graph}")
        values = list(proto.graph.input)
        weights = [value for value in values if value.name.isupper()]
        del proto.graph.input[:]
        proto.graph.input.extend(value for value in values if value not in weights)
        rng = self._rng("weights")
        for value in weights:
            array = self._drawn(value, self.weights, rng)
            proto.graph.initializer.append(numpy_helper.from_array(array, value.name))
        return proto

    def feeds(self) -> list[dict[str, Array]]:
        """Return the calibration samples; the same ones each time."""
        rng, inputs = self._rng("inputs"), self.model().graph.input
        return [
            {value.name: self._drawn(value, self.inputs, rng) for value in inputs}
            for _ in range(self.samples)
        ]

    def _rng(self, what: str) -> np.random.Generator:
        return np.random.default_rng(zlib.crc32(f"{self.name} {what}".encode()))

    def _drawn(self, value: onnx.ValueInfoProto, default: Draw, rng: np.random.Generator) -> Array:
        tensor = value.type.tensor_type
        shape = tuple(dim.dim_value or ROWS for dim in tensor.shape.dim)
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        return np.asarray(self.named.get(value.name, default)(rng, shape)).astype(dtype)


def _two_layers(name: str, operator: str, between: str, **more: Any) -> Case:
    weights = "float[100,10] W, float[100] B, float[10,100] V, float[10] C"
    return Case(
        name,
        f"(float[N,10] x, {weights}) => (float[N,10] y) <float low = {{-1.0}}, float high = {{1.0}}>"
        f"{{ a = {operator}<transB = 1>(x, W, B) b = {between} y = {operator}<transB = 1>(b, V, C) }}",
        modes=(STATIC, DYNAMIC),
        **more,
    )


def _matmuls(name: str, kind: str, opset: int) -> Case:
    return Case(
        name,
        f"({kind}[N,10] x, {kind}[10,100] W, {kind}[100,10] V, {kind} L, {kind} H) => ({kind}[N,10] y) "
        "{ a = MatMul(x, W) b = Clip(a, L, H) y = MatMul(b, V) }",
        opset=opset,
        modes=(STATIC, DYNAMIC),
        named={"L": constant(-1), "H": constant(1)},
    )


def _behind_conv(name: str, opset: int, operator: str, constants: str = "", **more: Any) -> Case:
    """Return a convolution that is an output, with one more operator behind it."""
    return Case(
        name,
        f"(float[1,2,26,42] x, float[3,2,3,3] W) => (float[1,3,24,40] same, float[1,3,?,?] y) <{constants}>"
        f"{{ a = Conv(x, W) same = Identity(a) y = {operator} }}",
        opset=opset,
        weights=SIGNS,
        **more,
    )


def _padded(mode: str, value: str = "") -> Case:
    constants = "int64[8] pads = {0, 0, 1, 2, 0, 0, 3, 4}, float value = {3.75}"
    return Case(
        f"op_pad {mode}{' value' if value else ''}",
        "(float[1,8,33,33] x, float[16,8,3,3] W) => (float[1,16,31,31] same, float[1,16,?,?] y) "
        f'<{constants}> {{ a = Conv(x, W) same = Identity(a) y = Pad<mode = "{mode}">(a, pads{value}) }}',
        weights=SIGNS,
        modes=(STATIC, DYNAMIC),
    )


def _squeezed(opset: int) -> Case:
    at, axes = ("<axes = [0]>", "") if opset < 13 else ("", ", zero")
    return Case(
        f"op_squeeze_unsqueeze {opset}",
        "(float[1,2,26,42] x, float[3,2,3,3] U, float[3,2,3,3] V, float[3,2,3,3] W) => (float[1,3,24,40] y) "
        "<int64[1] zero = {0}> { a = Conv(x, U) b = Conv(x, V) c = Conv(x, W) "
        f"d = Squeeze{at}(a{axes}) e = Squeeze{at}(b{axes}) f = Add(d, e) g = Unsqueeze{at}(f{axes}) "
        "y = Add(g, c) }",
        opset=opset,
        weights=SIGNS,
        modes=(STATIC, DYNAMIC),
        atol=0.5,
    )


def _behind_matmul(name: str, weight: str, shape: str, operator: str, inputs: Draw) -> Case:
    return Case(
        name,
        f"(float[3,7] x, float[{weight}] W) => (float[{shape}] y) <int64[2] nine = {{1, 9}}>"
        f"{{ a = MatMul(x, W) y = {operator} }}",
        opset=11,
        modes=(STATIC, DYNAMIC),
        inputs=inputs,
    )


def _conv(name: str, body: str, weights: str = "", shape: str = "1,16,31,31") -> Case:
    return Case(
        name,
        f"(float[1,8,33,33] x, float[16,8,3,3] W{weights}) => (float[{shape}] y) "
        f"<float low = {{-1.0}}, float high = {{1.0}}, int64[1] flat = {{-1}}> {{ {body} }}",
        modes=(STATIC, DYNAMIC),
        named={"B": normal(0, 0.05)},
    )


def _one_weight(name: str, kind: str, opset: int) -> Case:
    return Case(
        name,
        f"({kind}[1,1,7,7] x, {kind}[1,1,2,2] W, {kind}[1] B) => ({kind}[1,1,8,8] y) "
        "{ y = ConvTranspose<kernel_shape = [2, 2]>(x, W, B) }",
        opset=opset,
        named={"W": constant(1), "B": constant(0.17)},
    )


def _sliced(name: str, kind: str) -> Case:
    return Case(
        name,
        f"({kind}[2,4] x) => ({kind}[1,2] y) <int64[2] starts = {{1, 0}}, int64[2] ends = {{2, 3}}, "
        'int64[2] steps = {1, 2}> { y = Slice(x, starts, ends, "", steps) }',
        opset=21,
        inputs=integers(-8, 8),
        samples=2,
        forced=True,
    )


def _signed(name: str, low: float, high: float) -> Case:
    return Case(
        f"symmetric_flag {name}",
        "(float[1,2,32,32] x, float[1,2,2,2] W) => (float[1,1,31,31] y) { y = Conv(x, W) }",
        opset=11,
        inputs=either(low, high),
        named={"W": constant(*[low] * 4, *[high] * 4)},
        samples=4,
    )


def _tiny(name: str, graph: str) -> Case:
    """Return a layer whose bias fits into no int32 at its weight's scale."""
    return Case(
        f"qoperator_adjust_int32_bias {name}",
        graph,
        opset=21,
        inputs=either(0, 6.375, 12.75),
        named={"W": constant(-1e-7, 1e-7), "B": constant(5, -4.5)},
        samples=3,
    )


def _embedded(name: str, ids: str, segments: str, tables: str) -> Case:
    return Case(
        f"op_embed_layernorm {name}",
        f"(int32[{ids}] ids{segments}, {tables}, float[4] G, float[4] B) => (float[{ids},4] y, int32[1] n) "
        "{ y, n = com.microsoft.EmbedLayerNormalization(ids, "
        + ("segments, U, V, W, G, B) }" if segments else '"", U, V, "", G, B) }'),
        opset=14,
        modes=(DYNAMIC,),
        inputs=integers(0, 0),
        weights=uniform,
    )


def _in_blocks(name: str, draw: Draw) -> Case:
    return Case(
        f"op_matmul_4bits {name}",
        "(float[N,52] x, float[52,288] W) => (float[N,288] y) { y = MatMul(x, W) }",
        opset=21,
        modes=(BLOCKS,),
        weights=draw,
    )


def _table(name: str, kind: str, index: str, draw: Draw) -> Case:
    return Case(
        f"op_matmul_4bits gather {name}",
        f"({index}[N,1000] x, {kind}[545,228] W) => ({kind}[N,1000,228] y) {{ y = Gather(W, x) }}",
        opset=19,
        modes=(BLOCKS,),
        inputs=integers(-545, 534),
        weights=draw,
        rtol=0.2,
        atol=0.5,
    )


def _in_bytes(depth: int, width: int) -> Case:
    return Case(
        f"op_matmul_8bits {depth}x{width}",
        f"(float[2,{depth}] x, float[{depth},{width}] W) => (float[2,{width}] y) {{ y = MatMul(x, W) }}",
        opset=21,
        modes=(BYTES,),
        weights=normal(0, 0.01),
        atol=0.01,
    )


COUNTED = constant(*[v for v in range(-8, 8) if v not in (-3, 0, 3)])
OFFSET = constant(*range(16))
ATTENTION = "com.microsoft.Attention"
SKIP = "com.microsoft.SkipLayerNormalization"

CASES: tuple[Case, ...] = (
    _two_layers("op_gemm", "Gemm", "Clip(a, low, high)", inputs=normal(0, 2)),
    _matmuls("op_matmul", "float", 18),
    _matmuls("op_matmul float16", "float16", 19),
    _two_layers("op_relu", "Gemm", "Relu(a)", inputs=normal(0, 2)),
    Case(
        "op_concat",
        "(float[1,3,15,15] x, float[2,3,3,3] U, float[5,3,3,3] V, float[6,3,3,3] W) => (float[1,13,13,13] y) "
        "{ a = Conv(x, U) b = Conv(x, V) c = Conv(x, W) d = Concat<axis = 1>(a, b, c) y = Identity(d) }",
        modes=(STATIC, DYNAMIC),
    ),
    Case(
        "op_pad alone",
        "(float[1,16,31,31] x) => (float[1,16,35,37] y) <int64[8] pads = {0, 0, 1, 2, 0, 0, 3, 4}> "
        '{ y = Pad<mode = "constant">(x, pads) }',
        modes=(STATIC, DYNAMIC),
    ),
    _padded("edge"),
    _padded("reflect"),
    _padded("constant"),
    _padded("constant", ", value"),
    Case(
        "op_split",  # the test's Conv has no spatial axis, which no runtime loads any more
        "(float[6,3,1] x, float[6,3,1] W) => (float[1,12] p, float[1,12] q, float[1,12] r) "
        "<int64[2] shape = {3, 12}, int64[3] parts = {1, 1, 1}> "
        "{ a = Conv(x, W) b = Reshape(a, shape) p, q, r = Split<axis = 0>(b, parts) }",
        weights=SIGNS,
    ),
    _squeezed(11),
    _squeezed(13),
    _behind_conv(
        "op_resize",
        13,
        'Resize<coordinate_transformation_mode = "asymmetric", mode = "nearest", nearest_mode = "floor">'
        "(a, roi, scales)",
        "float[8] roi = {0, 0, 0, 0, 1, 1, 1, 1}, float[4] scales = {1, 1, 2, 2}",
        modes=(STATIC, DYNAMIC),
    ),
    _behind_conv("op_maxpool", 14, "MaxPool<kernel_shape = [3, 3]>(a)", modes=(STATIC, DYNAMIC)),
    _behind_conv("op_pooling", 12, "AveragePool<kernel_shape = [3, 3]>(a)"),
    _behind_conv("op_softmax", 13, "Softmax<axis = -2>(a)"),
    Case(
        "op_gavgpool",
        "(float[1,8,33,33] x, float[16,8,3,3] W) => (float[1,16,1,1] y) <int64[4] shape = {1, 8, 33, 33}> "
        "{ a = GlobalAveragePool(x) b = Expand(a, shape) c = Conv(b, W) y = GlobalAveragePool(c) }",
        modes=(STATIC, DYNAMIC),
        inputs=normal(-1, 1),
        weights=normal(-0.5, 0.5),
    ),
    _behind_matmul("op_reshape", "7,3", "1,9", "Reshape(a, nine)", normal(1, 2)),
    _behind_matmul("op_transpose", "7,5", "5,3", "Transpose<perm = [1, 0]>(a)", normal(0, 2)),
    _behind_matmul("op_flatten", "7,7", "3,7", "Flatten<axis = 1>(a)", SIGNS),
    Case(
        "op_argmax",
        "(float[1,256,128,128] x, float[32,256,1,1] W) => (int64[1,32,128] y) "
        "{ a = Conv(x, W) y = ArgMax<axis = 3, keepdims = 0>(a) }",
        modes=(STATIC, DYNAMIC),
        weights=SIGNS,
    ),
    Case(
        "op_where",
        "(bool[2,2] c, float[2,2] x, float[2,2] y) => (float[2,2] z) { z = Where(c, x, y) }",
        opset=16,
        inputs=constant(1),
        forced=True,
    ),
    Case(
        "op_gather_elems",
        "(float[3,3] x) => (float[2,3] y) <int64[2,3] i = {1, 2, 0, 2, 0, 0}> "
        "{ y = GatherElements<axis = 0>(x, i) }",
        opset=21,
        inputs=integers(1, 9),
        samples=2,
        forced=True,
    ),
    _sliced("op_slice", "float"),
    _sliced("op_slice float16", "float16"),
    Case(
        "op_topk",
        "(float[1,10] x) => (float[1,3] y, int64[1,3] i) <int64[1] k = {3}> { y, i = TopK<axis = 1>(x, k) }",
        opset=16,
        inputs=normal(2, 4),
        forced=True,
    ),
    Case(
        "op_instance_normalization",
        "(float[1,3,224,224] x) => (float[1,3,224,224] y) <float[3] s = {1, 1, 1}, float[3] b = {0, 0.5, 1}> "
        "{ y = InstanceNormalization<epsilon = 0.01>(x, s, b) }",
    ),
    _one_weight("op_conv_transpose", "float", 13),
    _one_weight("op_conv_transpose float16", "float16", 19),
    Case(
        "conv_dynamic",
        "(float[4,2,8,8] x, float[2,2,1,1] V, float[2,2,1,1] W, float[2] B) => (float[4,2,8,8] y) "
        "{ a = Conv(x, V, B) b = Relu(a) c = Conv(x, W, B) y = Add(b, c) }",
        modes=(DYNAMIC,),
        inputs=uniform,
        weights=normal(0, 0.3),
    ),
    _conv("qdq conv", "y = Conv(x, W)"),
    _conv("qdq conv with bias", "y = Conv(x, W, B)", ", float[16] B"),
    _conv("qdq conv and clip", "a = Conv(x, W) b = Clip(a, low, high) y = Reshape(b, flat)", shape="15376"),
    _conv("qdq conv and relu", "a = Conv(x, W) y = Relu(a)"),
    Case(
        "qdq extra options",
        "(float[5,5] x, float[5,5] V, float[5,5] W) => (float[5,5] y) "
        "{ a = Add(x, V) b = ReduceMean<keepdims = 1>(a) y = Add(b, W) }",
        inputs=SMALL,
    ),
    Case(
        "qdq three products of a sum",
        "(float[5,5] x, float[5,5] P, float[5,5] Q, float[5,5] R, float[5,5] S) "
        "=> (float[5,5] m, float[5,5] n, float[5,5] o) "
        "{ t = Add(x, P) m = MatMul(t, Q) n = MatMul(t, R) o = MatMul(t, S) }",
        inputs=SMALL,
    ),
    Case(
        "quantize_static",
        "(float[1,16,1,3] x, float[16,16,1,1] U, float[16] A, float[16,16,1,1] V, float[16] B, "
        "float[16,16,1,1] W, float[16] C) => (float[1,16,1,3] y) "
        "{ a = Conv(x, U, A) b = Relu(a) c = Conv(b, V, B) d = Conv(x, W, C) y = Add(c, d) }",
        weights=normal(0, 0.3),
        samples=10,
    ),
    _signed("symmetric", -1, 1),
    _signed("asymmetric", -1, 2),
    Case(
        "minimum_real_range_option",
        "(float[1,2,32,32] x, float[1,2,2,2] W) => (float[1,1,31,31] y) { y = Conv(x, W) }",
        opset=11,
        inputs=constant(0),
        weights=constant(0),
    ),
    Case(
        "tensor_quant_overrides_option",
        "(float[1,2,3] x, float[2,2,2] W, float[2] B) => (float[1,2,2] y) "
        "{ a = Sigmoid(x) y = Conv(a, W, B) }",
        inputs=constant(1, 2, 3, 4, 5, 6),
        named={"W": constant(-1, -2, 1, 2, -0.5, -1.5, 0.5, 1.5), "B": constant(0, 1)},
    ),
    _tiny(
        "conv",
        "(float[1,1,128,128] x, float[8,1,1,1] W, float[8] B) => (float[1,8,128,128] y) "
        "{ y = Conv(x, W, B) }",
    ),
    _tiny("gemm", "(float[1,8] x, float[8,4] W, float[1,4] B) => (float[1,4] y) { y = Gemm(x, W, B) }"),
    Case(
        "quant_issues",
        "(float[5,4] x, float[4,8] W) => (float[5,8] y, float[4,8] same) "
        "{ y = MatMul(x, W) same = Identity(W) }",
        opset=17,
        modes=(DYNAMIC,),
    ),
    Case(
        "quantizer_shape_inference",
        "(float[1,4] x, float[4,4] U, float[4,4] V, float[4,4] W, float[4,4] Z) => (float[1,4] y) "
        "{ a = MatMul(x, U) b = com.microsoft.FusedMatMul(a, V) c = MatMul(b, W) y = MatMul(c, Z) }",
        opset=18,
        modes=(DYNAMIC,),
        weights=normal(0, 1),
    ),
    Case(
        "subgraph",
        "(bool c, int64[1,N] x, float[32,16] W, float[16,16] V) => (float[1,N,16] y) "
        "{ y = If(c) <then_branch = then () => (float[1,N,16] p) { a = Gather(W, x) p = MatMul(a, V) }, "
        "else_branch = other () => (float[1,N,16] q) { q = Gather(W, x) }> }",
        opset=13,
        modes=(DYNAMIC,),
        named={"c": constant(1), "x": integers(0, 31)},
    ),
    Case(
        "op_attention",
        f"(float[1,N,10] x, float[10,30] W, float[30] B, float[10,10] V) => (float[1,N,10] y) "
        f"{{ a = {ATTENTION}<num_heads = 5>(x, W, B) y = MatMul(a, V) }}",
        modes=(DYNAMIC,),
        inputs=uniform,
    ),
    _embedded("with segments", "1,4", ", int32[1,4] segments", "float[2,4] U, float[4,4] V, float[2,4] W"),
    _embedded("without segments", "1,4", "", "float[2,4] U, float[4,4] V"),
    Case(
        "op_lstm",
        "(float[1,N,2] x, float[1,28,2] W, float[1,28,7] R) => (float[1,1,N,7] y) "
        "{ y = LSTM<hidden_size = 7>(x, W, R) }",
        opset=14,
        modes=(DYNAMIC,),
        inputs=uniform,
        weights=normal(0, 0.3),
    ),
    Case(
        "op_bias_gelu",
        "(float[1,10] x, float[10] B) => (float[1,10] y) { y = com.microsoft.BiasGelu(x, B) }",
        opset=14,
        modes=(DYNAMIC,),
        weights=uniform,
    ),
    Case(
        "op_skip_layer_norm",
        "(float[1,8,4] x, float[1,8,4] skip, int32[1] mask, float[4] G, float[4] B, float[4] C, "
        "float[4,12] Q, float[12] D, float[4,4] W, float[4] E, float[4] F, float[4] H) => (float[1,8,4] y) "
        f"{{ a = {SKIP}(x, skip, G, B, C) b = {ATTENTION}<num_heads = 4>(a, Q, D, mask) c = MatMul(b, W) "
        f"y = {SKIP}(a, c, E, F, H) }}",
        opset=14,
        modes=(DYNAMIC,),
        inputs=constant(1),
        weights=uniform,
        named={"mask": constant(8)},
    ),
    _in_blocks("symmetric", COUNTED),
    _in_blocks("with an offset", OFFSET),
    _table("symmetric", "float", "int32", COUNTED),
    _table("with an offset", "float16", "int64", OFFSET),
    *(_in_bytes(depth, width) for depth in (32, 40, 256, 512, 1024, 1040) for width in (8, 256)),
)
