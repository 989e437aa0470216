"""What ONNX Runtime would get wrong in a graph between Q and DQ is kept from it, and only that."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnxq.ir.module import GraphModule
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session
from onnxq.testing.running import run_model

Build = Callable[..., GraphModule]
BEFORE = "x_q = QuantizeLinear(x, s, z) x_dq = DequantizeLinear(x_q, s, z)"
BEHIND = "q = QuantizeLinear(p, t, z) y = DequantizeLinear(q, t, z)"
WEIGHT = "w_dq = DequantizeLinear(w, v)"
AT_RUN_TIME = "w_q = QuantizeLinear(w, v) w_dq = DequantizeLinear(w_q, v)"
LAYERS = {
    "conv": ("1,4,2,2", (5, 4, 1, 1), f"{WEIGHT} p = Conv(x_dq, w_dq, b)"),
    "conv and relu": ("1,4,2,2", (5, 4, 1, 1), f"{WEIGHT} h = Conv(x_dq, w_dq, b) p = Relu(h)"),
    "transposed": ("1,4,2,2", (4, 5, 1, 1), f"{WEIGHT} p = ConvTranspose(x_dq, w_dq, b)"),
    "gemm": ("2,4", (4, 5), f"{WEIGHT} p = Gemm(x_dq, w_dq, b)"),
    "gemm and folded": ("2,4", (4, 5), f"{WEIGHT} c = Identity(b) p = Gemm(x_dq, w_dq, c)"),
    "matmul and add": ("2,4", (4, 5), f"{WEIGHT} h = MatMul(x_dq, w_dq) p = Add(h, b)"),
    "add and matmul": ("2,4", (4, 5), f"{WEIGHT} h = MatMul(x_dq, w_dq) p = Add(b, h)"),
    "matmul and row": ("2,4", (4, 5), f"{WEIGHT} h = MatMul(x_dq, w_dq) p = Add(h, row)"),
    "fed weight": ("1,4,2,2", (5, 4, 1, 1), f"{AT_RUN_TIME} p = Conv(x_dq, w_dq, b)"),
}


def outputs(module: GraphModule, feeds: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return what the graph says, and what a session with all optimisations makes of it."""
    fused = open_session(ir.to_proto(module.model), Run(threads=1)).run(feeds)["y"]
    return run_model(module, feeds)["y"], fused


def sums(module: GraphModule) -> int:
    return sum(node.op_type == "Sum" for node in module.graph)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("step", [1e-2, 1e-9, 1e-30])
def test_a_bias_is_added_whether_int32_holds_it_or_not(
    layer: str, step: float, build: Build, compiled: Callable[..., GraphModule]
) -> None:
    """ONNX Runtime 1.32 rounds it to -2**31 steps of 1e-2 * ``step``, where that is less than the bias.

    The integer kernel rounds to the neighbour at most, one step of the output; without the pass, the second
    and third weight gave 0 for all outputs.
    """
    sizes, shape, body = LAYERS[layer]
    rng = np.random.default_rng(0)
    integers = rng.integers(-63, 64, shape).astype(np.int8)
    step32, bias = np.float32(step), np.linspace(-1, 1, 5).astype(np.float32)
    scales = {
        "s": np.float32(1e-2),
        "z": np.uint8(128),
        "t": np.float32(0.01),
        "v": step32,
        "b": bias,
        "row": bias[None],
    }
    weights = integers * step32
    fed = AT_RUN_TIME in body
    inputs = f"float[{sizes}] x" + (f", float[{','.join(map(str, shape))}] w" if fed else "")
    written = "float[N,M]" if sizes == "2,4" else "float[N,C,H,W]"
    given = {**scales, **({} if fed else {"w": integers})}
    module = build(f"main ({inputs}) => ({written} y) {{ {BEFORE} {body} {BEHIND} }}", given)
    feeds = {"x": rng.normal(size=[int(size) for size in sizes.split(",")]).astype(np.float32)}
    feeds |= {"w": weights} if fed else {}
    compiled(module, "insert-qdq")
    plain, optimised = outputs(module, feeds)
    assert np.abs(plain).max() >= 0.99
    assert np.abs(optimised - plain).max() <= 0.01 * 1.001
    assert sums(module) == (0 if step == 1e-2 and "Identity" not in body else 1)


@pytest.mark.parametrize("body", ["p = Conv(x_dq, w_dq, c)", "p = Gemm(x_dq, w_dq, c)"])
@pytest.mark.parametrize(("written", "shielded"), [(1e-4, 0), (2e-4, 1)])
def test_a_bias_counts_in_its_own_steps(
    body: str, written: float, shielded: int, build: Build, compiled: Callable[..., GraphModule]
) -> None:
    """ONNX Runtime 1.32 reads its integers in steps of 1e-2 * 1e-2: in the second case, half of it."""
    sizes, shape = ("1,4,2,2", (5, 4, 1, 1)) if "Conv" in body else ("2,4", (4, 5))
    steps = {"s": 1e-2, "v": 1e-2, "t": 2e-2, "u": written}
    given: dict[str, Any] = {name: np.float32(step) for name, step in steps.items()} | {"z": np.uint8(128)}
    given |= {"w": np.full(shape, 3, np.int8), "b": np.arange(5, dtype=np.int32) * 2000}
    text = f"{BEFORE} {WEIGHT} c = DequantizeLinear(b, u) {body} {BEHIND}"
    module = build(f"main (float[{sizes}] x) => (float y) {{ {text} }}", given)
    compiled(module, "insert-qdq")
    shape_fed = [int(size) for size in sizes.split(",")]
    plain, optimised = outputs(module, {"x": np.full(shape_fed, 0.5, np.float32)})
    assert np.abs(plain).max() >= 8000 * written
    assert np.abs(optimised - plain).max() <= 2e-2 * 1.001  # the integer kernel's other neighbour
    assert sums(module) == shielded


@pytest.mark.parametrize("layer", LAYERS)
def test_a_bias_beside_weights_of_zero_is_not_lost(
    layer: str, build: Build, compiled: Callable[..., GraphModule]
) -> None:
    """Their scale is 1 for want of another, and ONNX Runtime 1.32 would round the bias to steps of 1e-2."""
    sizes, shape, body = LAYERS[layer]
    bias = np.linspace(-4e-3, 4e-3, 5).astype(np.float32)
    one = np.float32(1)
    given = {"s": np.float32(1e-2), "z": np.uint8(128), "t": np.float32(1e-4), "v": one, "b": bias}
    given |= {"row": bias[None]} | ({} if AT_RUN_TIME in body else {"w": np.zeros(shape, np.int8)})
    inputs = f"float[{sizes}] x" + (f", float[{','.join(map(str, shape))}] w" if "w" not in given else "")
    written = "float[N,M]" if sizes == "2,4" else "float[N,C,H,W]"
    module = build(f"main ({inputs}) => ({written} y) {{ {BEFORE} {body} {BEHIND} }}", given)
    feeds = {"x": np.ones([int(size) for size in sizes.split(",")], np.float32)}
    feeds |= {"w": np.zeros(shape, np.float32)} if "w" not in given else {}
    compiled(module, "insert-qdq")
    plain, optimised = outputs(module, feeds)
    assert np.abs(plain).max() >= 3.9e-3
    assert np.abs(optimised - plain).max() <= 1e-4 * 1.001  # the integer kernel's other neighbour


@pytest.mark.parametrize(
    "body",
    [
        "p = Gemm(x_dq, w)",
        "p = Gemm<transA=1>(x_dq, w)",
        "v = Transpose(w) p = Gemm<transB=1>(x_dq, v)",
        "v = Transpose(w) p = Gemm<transA=1, transB=1>(x_dq, v, b)",
        "p = MatMul(x_dq, w)",
        "h = MatMul(x_dq, w) p = Add(h, b)",
    ],
)
def test_a_constant_weight_stays_in_float(
    body: str, build: Build, compiled: Callable[..., GraphModule]
) -> None:
    """In 8 bits, as ONNX Runtime 1.32 would have it, 0.003 beside 1 is 1/255, and products may saturate."""
    weight = np.full((4, 4), 0.003, np.float32)
    weight[0, 0] = 1
    given = {"s": np.float32(1e-2), "z": np.uint8(128), "t": np.float32(1e-4), "w": weight}
    given |= {"b": np.zeros(4, np.float32)} if "b)" in body else {}
    module = build(f"main (float[4,4] x) => (float[N,M] y) {{ {BEFORE} {body} {BEHIND} }}", given)
    compiled(module, "insert-qdq")
    plain, optimised = outputs(module, {"x": np.diag([0, 1, 1, 1]).astype(np.float32)})
    assert np.abs(plain).max() >= 3e-3 * 0.999
    assert np.abs(optimised - plain).max() <= 1e-4 * 1.001  # the other neighbour
    assert sums(module) == 1


@pytest.mark.parametrize("many", ["before", "behind"])
@pytest.mark.parametrize(
    "body",
    [
        "p = AveragePool<kernel_shape=[2]>(x_dq)",
        "p = GlobalAveragePool(x_dq)",
        "p = LeakyRelu(x_dq)",
        "p = Sigmoid(x_dq)",
        "h = Transpose<perm=[2, 1, 0]>(x_dq) p = Sigmoid(h)",
        "p = Softmax(x_dq)",
        "c = IsNaN(x_dq) p = Where(c, k, x_dq)",
        "c = IsNaN(x_dq) p = Where(c, x_dq, x_dq)",
    ],
)
def test_what_has_a_scale_for_each_channel_stays_in_float(
    body: str, many: str, build: Build, compiled: Callable[..., GraphModule]
) -> None:
    """ONNX Runtime 1.32 fails to load or run its integer forms of them; its Softmax is off by 0.4."""
    one, each = (np.float32(0.01), np.uint8(100)), (np.linspace(0.01, 0.02, 4), np.full(4, 100))
    (s, z), (t, u) = (each, one) if many == "before" else (one, each)
    given = {"s": np.float32(s), "z": np.uint8(z), "t": np.float32(t), "u": np.uint8(u)}
    given["k"] = np.float32(0.5)
    text = f"{BEFORE} {body} {BEHIND.replace('t, z', 't, u')}"
    module = build(f"main (float[1,4,3] x) => (float y) {{ {text} }}", given)
    compiled(module, "insert-qdq")
    plain, optimised = outputs(module, {"x": np.linspace(-1, 1, 12, dtype=np.float32).reshape(1, 4, 3)})
    np.testing.assert_array_equal(optimised, plain)
    assert sums(module) == 1


@pytest.mark.parametrize("columns", [1, 3, 4, 6, 8])
@pytest.mark.parametrize("body", ["y = MatMul(x, w)", "y = Gemm(x, w)"])
def test_weights_of_two_bits_are_read_right(
    columns: int, body: str, build: Build, compiled: Callable[..., GraphModule]
) -> None:
    """ONNX Runtime 1.32 packs them wrongly for MatMulNBits, but for columns in multiples of four.

    The kernel rounds its input to 127 steps of the largest of a block: by half a step, times each weight.
    """
    rng = np.random.default_rng(columns)
    weight = rng.normal(size=(40, columns)).astype(np.float32)
    header = '<ir_version: 11, opset_import: ["" : 25]>'
    module = build(f"main (float[3,40] x) => (float[3,{columns}] y) {{ {body} }}", {"w": weight}, header)
    compiled(
        module, "split-linear{mode=branches, bits=2, scope=tensor, packed=true}, insert-qdq, remove-dead"
    )
    x = rng.normal(size=(3, 40)).astype(np.float32)
    plain, optimised = outputs(module, {"x": x})
    parts = [value for name, value in run_model(module, {"x": x}, inner=True).items() if name.endswith("_dq")]
    weights = sum(np.abs(part).sum(axis=0) for part in parts)
    assert (np.abs(optimised - plain) <= np.abs(x).max() / 254 * weights * (1 + 1e-5)).all()
    assert sums(module) == (1 if columns % 4 == 0 else 4)


def test_a_layer_normalization_of_float16_loads(build: Build, compiled: Callable[..., GraphModule]) -> None:
    """ONNX Runtime 1.32 makes an operator of two float types of one that is written out behind a Cast."""
    body = (
        "i = Identity(x) m = ReduceMean(i, axes) d = Sub(i, m) q = Pow(d, two) v = ReduceMean(q, axes) "
        "e = Add(v, eps) r = Sqrt(e) n = Div(d, r) k = Mul(n, gamma) y = Add(k, gamma)"
    )
    half = {"two": 2.0, "eps": 0.1, "gamma": np.linspace(0.5, 1.5, 8)}
    weights = {"axes": np.array([-1]), **{name: np.asarray(one, np.float16) for name, one in half.items()}}
    module = build(f"main (float16[2,8] x) => (float16[2,8] y) {{ {body} }}", weights)
    compiled(module, "widen-float16, remove-dead")
    plain, optimised = outputs(module, {"x": np.linspace(-1, 1, 16, dtype=np.float16).reshape(2, 8)})
    np.testing.assert_allclose(optimised, plain, atol=4 * np.finfo(np.float16).eps)  # values are below 4


@pytest.mark.parametrize("moved", ["Reshape(x_dq, shape)", "Transpose(x_dq)", "Slice(x_dq, zero, one)"])
def test_what_a_body_reads_from_outside_does_not_end_the_process(
    moved: str, build: Build, compiled: Callable[..., GraphModule]
) -> None:
    """ONNX Runtime 1.32 takes it for an input of the If that the operator does not have."""
    body = f"""main (float[2,4] x, bool c) => (float[N,M] y) {{
        {BEFORE} h = {moved}
        y = If (c) <
            then_branch = a () => (float[N,M] t) {{ t = Relu(h) }},
            else_branch = b () => (float[N,M] e) {{ e = Neg(h) }}
        >
    }}"""
    weights = {"s": np.array(0.1, np.float32), "z": np.array(3, np.uint8), "shape": np.array([4, 2])}
    module = build(body, weights | {"zero": np.array([0]), "one": np.array([1])})
    compiled(module, "insert-qdq")
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    for taken in (True, False):
        found, fused = outputs(module, {"x": x, "c": np.array(taken)})
        np.testing.assert_array_equal(found, fused)
