"""Each rule of the table, against finite differences of the operator in float64."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx_ir as ir
import pytest

from onnxq.autodiff import gradient_model
from onnxq.autodiff.table import RULES
from onnxq.ir.module import GraphModule
from onnxq.ir.text import parse
from onnxq.testing.gradients import TERMS, assert_gradient
from onnxq.testing.running import Array, run_model

SIZES = {"N": 2, "M": 3, "ONE": 1}

CASES = """
Add        x[N,3] b[3]
Add        x[N,3] b[N,1]
Add        x[3] b[N,2,1]
Add        x[N,3] b[ONE,3]
Add        x[N,M] b[M]
Sub        x[3] b[N,3]
Mul        x[N,1,3] b[2,1]
Mul        x[N,M] b[N,M]
Div        x[N,3] b+[3]
Pow        x+[N,3] b[3]
Pow        x+[N,3] | y = Pow(x, c) | c = {2}
Pow        x+[N,3] | y = Pow(x, c) | c = {3}
Sum        x[N,3] b[3] c[N,1]
Mean       x[N,3] b[3] c[N,1]
Max        x[N,3] b[3]
Min        x[N,3] b[3] c[N,1]
Where      x[N,3] b[3] | y = Where(c, x, b) | bool[3] c = {1, 0, 1}
Neg        x[N,3]
Abs        x[N,3]
Sqrt       x+[N,3]
Reciprocal x+[N,3]
Exp        x[N,3]
Log        x+[N,3]
Sin        x[N,3]
Cos        x[N,3]
Erf        x[N,3]
Tanh       x[N,3]
Sigmoid    x[N,3]
Softplus   x[N,3]
Softsign   x[N,3]
Relu       x[N,3]
LeakyRelu  x[N,3]
LeakyRelu  x[N,3] | y = LeakyRelu<alpha=0.3>(x)
PRelu      x[N,3] b[3]
Elu        x[N,3]
Elu        x[N,3] | y = Elu<alpha=0.3>(x)
Clip       x[N,4] b-[] c+[]
HardSigmoid x[N,9]
HardSigmoid x[N,9] | y = HardSigmoid<alpha=0.5>(x)
HardSwish  x[N,9] | c = Mul(x, f) y = HardSwish(c) | float f = {4}
Gelu       x[N,9]
Gelu       x[N,9] | y = Gelu<approximate="tanh">(x)
Softmax    x[N,3]
Softmax    x[N,3,2] | y = Softmax<axis=1>(x)
LogSoftmax x[N,3]
LogSoftmax x[N,3,2] | y = LogSoftmax<axis=1>(x)
Round      x[N,3] | c = Round(x) d = Sub(x, x) y = Mul(d, c)
Ceil       x[N,3] | c = Ceil(x) y = Mul(x, c)
Floor      x[N,3] | c = Floor(x) y = Mul(x, c)
Sign       x[N,3] | c = Sign(x) y = Mul(x, c)
MatMul     x[N,3] b[3,2]
MatMul     x[N,2,3] b[3,2]
MatMul     x[N,2,2,M] b[M,2]
MatMul     x[2,3] b[N,3,2]
MatMul     x[N,1,2,3] b[2,3,2]
MatMul     x[3] b[3,2]
MatMul     x[N,3] b[3]
MatMul     x[3] b[3]
MatMul     x[3] b[N,3,2]
MatMul     x[N,2,3] b[3]
MatMul     x[ONE,2,3] b[N,3,2]
Gemm       x[N,3] b[3,2] c[2]
Gemm       x[N,3] b[3,2] c[N,1]
Gemm       x[3,N] b[3,2] c[2] | y = Gemm<transA=1, alpha=0.5>(x, b, c)
Gemm       x[N,3] b[2,3] c[]  | y = Gemm<transB=1, beta=0.5>(x, b, c)
Gemm       x[3,N] b[2,3] c[1,2] | y = Gemm<transA=1, transB=1, alpha=2.0>(x, b, c)
Gemm       x[N,3] b[3,2]
Einsum     x[N,2,3] b[N,3,2] | y = Einsum<equation="bij,bjk->bik">(x, b)
Einsum     x[N,2,3] b[2,3] c[3] | y = Einsum<equation="bij, ij, j -> bi">(x, b, c)
Einsum     x[N,3] | y = Einsum<equation="ij->ji">(x)
"""

REDUCTIONS = (
    "ReduceSum ReduceMean ReduceMax ReduceMin ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSum ReduceLogSumExp"
)
FORMS = """
x+[N,3,2] | y = OP(x, a) | int64[2] a = {0, 2}
x+[N,M,2] | y = OP<keepdims=0>(x, a) | int64[2] a = {0, -1}
x+[N,3] | y = OP<keepdims=0>(x)
x+[N,3] | y = OP(x)
"""

MOVES = """
Identity   x[N,3]
Dropout    x[N,3]
Cast       x[N,3] | c = Cast<to=11>(x) d = Mul(c, c) y = Cast<to=1>(d)
CastLike   x[N,3] b=[1] | y = CastLike(x, b)
Reshape    x[N,6] | y = Reshape(x, s) | int64[3] s = {0, 2, -1}
Flatten    x[N,3,2]
Squeeze    x[N,1,3] | y = Squeeze(x, s) | int64[1] s = {1}
Unsqueeze  x[N,3] | y = Unsqueeze(x, s) | int64[2] s = {0, -1}
Expand     x[3,1] | y = Expand(x, s) | int64[3] s = {2, 3, 4}
Expand     x[N,1] b=[N,M] | s = Shape(b) y = Expand(x, s)
Transpose  x[N,3,2]
Transpose  x[N,3,2] | y = Transpose<perm=[1,2,0]>(x)
Concat     x[N,3] b[N,2] | y = Concat<axis=1>(x, b)
Concat     x[N,M] b[N,M] c[N,2] | y = Concat<axis=-1>(x, b, c)
Split      x[N,6] | y, c = Split<axis=1>(x, s) | int64[2] s = {2, 4}
Split      x[N,6] | c, d, e = Split<axis=-1, num_outputs=3>(x) y = Mul(c, e)
Slice      x[N,6] | y = Slice(x, s, e, a) | int64[1] s = {1}, int64[1] e = {-1}, int64[1] a = {1}
Slice      x[N,6] | y = Slice(x, s, e, a, s) | int64[1] s = {-1}, int64[1] e = {-9}, int64[1] a = {1}
Slice      x[N,6] | y = Slice(x, s, e, s, t) | int64[1] s = {1}, int64[1] e = {9}, int64[1] t = {2}
Slice      x[N,M] | y = Slice(x, s, e, a) | int64[1] s = {1}, int64[1] e = {9}, int64[1] a = {1}
Slice      x[4,6] | y = Slice(x, s, e) | int64[2] s = {1, 0}, int64[2] e = {3, 99}
Pad        x[N,3] | y = Pad(x, p) | int64[4] p = {1, 0, 0, 2}
Pad        x[N,3] | y = Pad(x, p, z, a) | int64[2] p = {2, 1}, float z = {1}, int64[1] a = {1}
Pad        x[N,3] z[] | y = Pad(x, p, z) | int64[4] p = {1, 0, 0, 2}
Pad        x[N,3] | y = Pad<mode="reflect">(x, p) | int64[4] p = {0, 1, 0, 2}
Pad        x[2,3] | y = Pad<mode="edge">(x, p) | int64[4] p = {0, 1, 1, 2}
Tile       x[N,3] | y = Tile(x, r) | int64[2] r = {2, 3}
Gather     x[5,3] | y = Gather(x, i) | int64[2,2] i = {1, 4, 1, -1}
Gather     x[N,5] | y = Gather<axis=-1>(x, i) | int64[3] i = {1, 4, 1}
Gather     x[N,5,M] | y = Gather<axis=1>(x, i) | int64[2,1] i = {1, 4}
Gather     x[N,5] | y = Gather<axis=1>(x, i) | int64 i = {-2}
Gather     x[5,3] | y = Gather(x, i) | int32 i = {2}
GatherElements x[N,5] | y = GatherElements<axis=1>(x, i) | int64[2,2] i = {1, 1, 0, 3}
GatherND   x[4,3] | y = GatherND(x, i) | int64[3,1] i = {1, 3, 1}
TopK       x[N,5] | y, c = TopK(x, k) | int64[1] k = {2}
Trilu      x[N,3,3]
Trilu      x[3,3] | y = Trilu<upper=0>(x, k) | int64 k = {1}
"""


LAYERS = """
LayerNormalization x[N,4] b[4] c[4]
LayerNormalization x[N,3,4] b[3,1] c[4] | y = LayerNormalization<axis=1, epsilon=0.1>(x, b, c)
LayerNormalization x[N,M,4] b[4]
RMSNormalization x[N,4] b[4]
RMSNormalization x[N,3,4] b[3,4] | y = RMSNormalization<axis=1, epsilon=0.1>(x, b)
GroupNormalization x[N,4,3] b[4] c[4] | y = GroupNormalization<num_groups=2>(x, b, c)
GroupNormalization x[N,4,M,2] b[4] c[4] | y = GroupNormalization<num_groups=1>(x, b, c)
InstanceNormalization x[N,2,3] b[2] c[2]
InstanceNormalization x[N,M,3,2] b[M] c[M]
BatchNormalization x[N,3,2,2] b[3] c[3] d[3] e+[3]
BatchNormalization x[N,3] b[3] c[3] d[3] e+[3]
Conv x[N,2,5] b[3,2,3] c[3]
Conv x[N,2,M] b[3,2,2] | y = Conv<strides=[2]>(x, b)
Conv x[N,2,8] b[3,2,2] | y = Conv<strides=[3], pads=[0,1]>(x, b)
Conv x[N,2,5,4] b[2,2,3,3] c[2] | y = Conv<pads=[1,1,1,1]>(x, b, c)
Conv x[N,2,6,7] b[2,2,3,2] | y = Conv<strides=[2,3], pads=[1,0,0,1], dilations=[1,2]>(x, b)
Conv x[N,2,M,M] b[2,2,1,1] | y = Conv<strides=[2,2]>(x, b)
Conv x[N,4,5,4] b[2,2,3,3] | y = Conv<pads=[1,1,1,1], group=2>(x, b)
Conv x[N,4,6,6] b[4,1,3,3] | y = Conv<pads=[1,1,1,1], strides=[2,2], group=4>(x, b)
Conv x[N,4,M,5] b[4,1,2,2] | y = Conv<group=4, auto_pad="SAME_UPPER">(x, b)
Conv x[N,2,9,8] b[6,1,2,3] | y = Conv<pads=[1,0,0,1], strides=[3,2], dilations=[2,1], group=2>(x, b)
Conv x[1,2,6,6] b[2,2,3,3] c[2] | y = Conv<pads=[1,1,1,1]>(x, b, c)
Conv x[N,2,6,6] b[2,2,3,3] | y = Conv<strides=[2,2], auto_pad="SAME_LOWER">(x, b)
Conv x[N,2,6,6] b[2,2,3,3] | y = Conv<auto_pad="VALID">(x, b)
ConvTranspose x[N,2,4] b[2,3,3] c[3]
ConvTranspose x[N,2,3,4] b[2,3,3,2] | y = ConvTranspose<strides=[2,3], pads=[1,0,0,1]>(x, b)
ConvTranspose x[N,2,3,3] b[2,3,3,3] | y = ConvTranspose<strides=[2,2], output_padding=[1,1]>(x, b)
ConvTranspose x[N,2,3,3] b[2,3,3,3] | y = ConvTranspose<dilations=[1,2]>(x, b)
ConvTranspose x[N,2,M] b[2,3,2] | y = ConvTranspose<strides=[2]>(x, b)
ConvTranspose x[N,2,3] b[2,3,3] | y = ConvTranspose<strides=[2], auto_pad="SAME_UPPER">(x, b)
ConvTranspose x[N,2,3] b[2,3,3] | y = ConvTranspose<strides=[2], auto_pad="SAME_LOWER">(x, b)
Range x+[] b+[] | e = Add(x, f) h = Add(b, f) y = Range(x, e, h) | float f = {9}
MaxPool x[N,2,6] | y = MaxPool<kernel_shape=[2], strides=[2]>(x)
MaxPool x[N,2,5,5] | y = MaxPool<kernel_shape=[3,2], strides=[2,1], pads=[1,0,1,1]>(x)
MaxPool x[N,2,M,7] | y = MaxPool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1, auto_pad="SAME_UPPER">(x)
AveragePool x[N,2,6] | y = AveragePool<kernel_shape=[2], strides=[2]>(x)
AveragePool x[N,2,5,5] | y = AveragePool<kernel_shape=[3,2], strides=[2,1], pads=[1,0,1,1]>(x)
AveragePool x[N,2,5,5] | y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(x)
AveragePool x[N,2,6,5] | y = AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(x)
AveragePool x[N,2,M,5] | y = AveragePool<kernel_shape=[2,2], strides=[2,2]>(x)
GlobalMaxPool x[N,2,3,3]
GlobalAveragePool x[N,2,3,3]
GlobalAveragePool x[N,2,M]
DequantizeLinear x+[] | y = DequantizeLinear(c, x) | int8[2,3] c = {1, -2, 3, 4, 5, 127}
DequantizeLinear x+[3] | y = DequantizeLinear(c, x, z) | uint8[1,3] c = {1, 2, 9}, uint8[3] z = {1, 9, 3}
DequantizeLinear x+[2] | y = DequantizeLinear<axis=0>(c, x) | int8[2,3] c = {1, 2, 3, 4, 5, -127}
Resize x[N,2,2,3] | y = Resize(x, , f) | float[4] f = {1, 1, 2, 1.5}
Resize x[N,2,4] | y = Resize<mode="nearest", nearest_mode="floor">(x, , , s) | int64[3] s = {2, 2, 3}
Resize x[N,2,2,3] | y = Resize<mode="linear">(x, , f) | float[4] f = {1, 1, 2, 1.5}
Resize x[N,2,2,3] | y = Resize<mode="cubic", axes=[3]>(x, , , s) | int64[1] s = {5}
Resize x[N,1,4,3] | y = Resize<mode="linear", antialias=1>(x, , , s) | int64[4] s = {2, 1, 7, 2}
Resize x[N,1,4,M] | y = Resize<mode="linear">(x, , f) | float[4] f = {1, 1, 1, 3}
Resize x[N,1,4] | y = Resize<mode="linear", CORNERS>(x, , f) | float[3] f = {1, 1, 2}
"""

DEFINED = """
Mish x[N,3]
Celu x[N,3] | y = Celu<alpha=0.5>(x)
ThresholdedRelu x[N,3]
Attention x[N,3,4] b[N,M,4] c[N,M,4] | y = Attention<q_num_heads=2, kv_num_heads=2>(x, b, c)
Attention x[N,2,3,4] b[N,2,3,4] c[N,2,3,2] | y = Attention<is_causal=1>(x, b, c)
Attention x[N,3,4] b[N,3,4] c[N,3,4] d[3,3] | y = Attention<q_num_heads=2, kv_num_heads=2>(x, b, c, d)
Attention x[N,2,3,4] b[N,1,3,4] c[N,1,3,4]
"""


def _cases() -> list[str]:
    reduced = [
        f"{op} {form}" if "|" not in form else f"{op} {form.replace('OP', op)}"
        for op in REDUCTIONS.split()
        for form in FORMS.strip().splitlines()
    ]
    return [*CASES.strip().splitlines(), *reduced, *MOVES.strip().splitlines(), *LAYERS.strip().splitlines()]


def read_case(case: str) -> tuple[GraphModule, dict[str, Array]]:
    """Return the model that a line stands for, and feeds for it."""
    head, nodes, constants = (*(part.strip() for part in case.split("|")), "", "")[:3]
    nodes = nodes.replace("CORNERS", 'coordinate_transformation_mode="align_corners"')
    op, *inputs = head.split()
    shapes = {one[0]: one[one.index("[") + 1 : -1] for one in inputs}
    nodes = nodes or f"y = {op}({', '.join(shapes)})"
    constants = constants if constants[:1] != "c" else f"float {constants}"
    declared = ", ".join(
        f"float[{shape}] {name}" if shape else f"float {name}" for name, shape in shapes.items()
    )
    text = f'<ir_version: 10, opset_import: ["" : 23]> main ({declared}) => (float[] y) '
    module = parse(text + (f"<{constants}> " if constants else "") + f"{{ {nodes} }}")
    rng = np.random.default_rng(len(case))
    feeds = {}
    for one in inputs:
        sizes = [int(SIZES.get(axis, axis)) for axis in re.findall(r"\w+", shapes[one[0]])]
        array = np.asarray(rng.choice([-1, 1], sizes) * rng.uniform(0.2, 1.5, sizes))
        sign = {"+": 1, "-": -1}.get(one[1])
        feeds[one[0]] = np.asarray(array if sign is None else sign * np.abs(array), np.float32)
    return module, feeds


@pytest.mark.parametrize("case", [*_cases(), *DEFINED.strip().splitlines()])
def test_a_rule_is_the_slope(case: str) -> None:
    module, feeds = read_case(case)
    assert_gradient(module, feeds, [name for name in feeds if f" {name}=[" not in case])


@pytest.fixture(scope="session")
def torch_graph() -> ModuleType:
    pytest.importorskip("torch", reason="compares with PyTorch")
    path = Path(__file__).resolve().parents[3] / "tools" / "torch_graph.py"
    spec = importlib.util.spec_from_file_location("torch_graph", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("case", [*_cases(), *DEFINED.strip().splitlines()])
def test_a_rule_is_that_of_torch(case: str, torch_graph: ModuleType) -> None:
    module, feeds = read_case(case)
    wrt = [name for name in feeds if f" {name}=[" not in case]
    if any(node.op_type not in torch_graph.OPERATORS for node in module.graph):
        pytest.skip("PyTorch has no such operator")
    model = gradient_model(module, of="y", wrt=wrt, seeded=True)
    y = run_model(module, feeds)["y"]
    seed = np.asarray(np.random.default_rng(1).normal(size=y.shape), np.float32)
    found = run_model(model, {**feeds, "seed": seed})
    try:
        expected = torch_graph.gradients(ir.to_proto(module.model), feeds, "y", wrt, seed)
    except torch_graph.OtherwiseError as error:
        pytest.skip(str(error))
    for name, exact in expected.items():
        # float32 rounds so many times between inputs and gradient, in steps of its largest elements
        bound = TERMS * np.finfo(np.float32).eps * np.abs(exact).max(initial=1)
        np.testing.assert_allclose(found[f"{name}_grad"], exact, rtol=0, atol=bound, err_msg=name)


def test_every_rule_has_a_case() -> None:
    tested_elsewhere = {"QuantizeLinear"}  # no slope of what is rounded: test_quantization.py
    assert {line.split()[0] for line in _cases()} | tested_elsewhere == set(RULES)
