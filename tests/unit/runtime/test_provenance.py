"""Which kernel ran each layer of the source, on graphs whose answer is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxq.runtime.kernels import KernelReport, LayerKernel, LayerState, Provenance, kernel_report
from onnxq.runtime.run import Run

Save = Callable[..., Path]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 4)).astype(np.float32)
W = {"w": RNG.normal(size=(4, 4)).astype(np.float32), "b": np.ones(4, np.float32)}
W_Q = {"w_q": RNG.integers(-127, 128, (4, 4)).astype(np.int8), "b": np.ones(4, np.float32)}
GRID = "<float s = {0.05}, uint8 z = {128}, float ws = {0.01}, int8 wz = {0}>"
CUBE = "main (float[N,T,4] x) => (float[N,T,4] y)"


def by_name(report: KernelReport) -> dict[str, LayerKernel]:
    return {layer.name: layer for layer in report.provenance.layers}


def traced(layer: LayerKernel) -> tuple[str, tuple[str, ...]]:
    return layer.state.value, layer.kernels


def test_a_quantized_layer_is_found_by_the_values_around_it(save: Save) -> None:
    source = save(f"{CUBE} {{ [up] m = MatMul(x, w) y = Add(m, b) }}", "source.onnx", W)
    compiled = save(
        f"""{CUBE} {GRID} {{
            x_q = QuantizeLinear(x, s, z) x_dq = DequantizeLinear(x_q, s, z)
            w_dq = DequantizeLinear(w_q, ws, wz) m = MatMul(x_dq, w_dq) y = Add(m, b)
        }}""",
        "compiled.onnx",
        W_Q,
    )
    report = kernel_report(compiled, {"x": np.tile(X, (200, 10, 1))}, Run(threads=1), source=source)
    layer = by_name(report)["up"]
    assert traced(layer) == ("integer", ("MatMulIntegerToFloat",))
    assert report.provenance.untraced == 0
    shares = {node.op_type: node.share for node in report.nodes}
    assert layer.share == shares["MatMulIntegerToFloat"]
    assert layer.overhead == shares["QuantizeLinear"]


def test_a_value_that_a_fold_renamed_is_still_its_source(save: Save) -> None:
    source = save(f"{CUBE} {{ [up] m = MatMul(x, w) r = Relu(m) [down] y = MatMul(r, w) }}", "s.onnx", W)
    compiled = save(
        f"{CUBE} {{ m_folded = MatMul(x, w) r_folded_1 = Relu(m_folded) y = MatMul(r_folded_1, w) }}",
        "compiled.onnx",
        W,
    )
    report = kernel_report(compiled, {"x": X}, Run(threads=1), source=source)
    assert {name: traced(layer) for name, layer in by_name(report).items()} == {
        "up": ("float", ("MatMul",)),
        "down": ("float", ("MatMul",)),
    }
    assert report.provenance.untraced == 0


def test_a_model_alone_is_its_own_source(qdq_matmul: Path) -> None:
    report = kernel_report(qdq_matmul, {"x": X})
    assert [(layer.name, *traced(layer)) for layer in report.provenance.layers] == [
        ("m", "integer", ("MatMulIntegerToFloat",))
    ]


def test_layers_without_names_are_called_by_their_outputs(save: Save) -> None:
    path = save(f"{CUBE} {{ a = MatMul(x, w) b2 = Add(a, b) y = MatMul(b2, w) }}", weights=W)
    report = kernel_report(path, {"x": X})
    assert sorted(by_name(report)) == ["a", "y"]
    assert all(traced(layer) == ("float", ("MatMul",)) for layer in report.provenance.layers)


def test_names_that_two_nodes_share_are_kept_apart(save: Save) -> None:
    path = save(f"{CUBE} {{ [same] a = MatMul(x, w) b2 = Add(a, b) [same] y = MatMul(b2, w) }}", weights=W)
    assert sorted(by_name(kernel_report(path, {"x": X}))) == ["same", "same_1"]


def test_one_kernel_of_two_layers_is_split_evenly(save: Save) -> None:
    head = "main (float[N,T,8] q, float[N,T,8] k, float[N,T,8] v) => (float[N,T,8] y)"
    source = save(
        f"""{head} <float half = {{0.5}}> {{
            kt = Transpose <perm = [0, 2, 1]> (k)
            [scores] s = MatMul(q, kt) scaled = Mul(s, half) p = Softmax(scaled) [context] y = MatMul(p, v)
        }}""",
        "source.onnx",
    )
    compiled = onnx.parser.parse_model(
        f"""<ir_version: 11, opset_import: ["" : 23]> {head}
        {{ y = Attention <q_num_heads = 1, kv_num_heads = 1, scale = 0.5> (q, k, v) }}"""
    )
    feeds = {name: RNG.normal(size=(8, 64, 8)).astype(np.float32) for name in "qkv"}
    layers = by_name(kernel_report(compiled, feeds, Run(threads=1), source=source))
    assert traced(layers["scores"]) == traced(layers["context"]) == ("float", ("Attention",))
    assert layers["scores"].share == layers["context"].share == pytest.approx(0.5)


def test_several_kernels_of_one_layer_are_added_up(save: Save) -> None:
    source = save(f"{CUBE} {{ [linear] y = MatMul(x, w) }}", "source.onnx", W)
    parts = {f"w{i}": RNG.normal(size=(4, 4)).astype(np.float32) for i in range(3)}
    compiled = save(
        f"{CUBE} {{ y0 = MatMul(x, w0) y1 = MatMul(x, w1) y2 = MatMul(x, w2) y = Sum(y0, y1, y2) }}",
        "compiled.onnx",
        parts,
    )
    report = kernel_report(compiled, {"x": np.tile(X, (200, 10, 1))}, Run(threads=1), source=source)
    layer = by_name(report)["linear"]
    assert traced(layer) == ("float", ("MatMul", "MatMul", "MatMul"))
    assert layer.share == pytest.approx(sum(n.share for n in report.nodes if n.op_type == "MatMul"))
    assert report.provenance.untraced == 3  # the parts' names tell nothing; the Sum's does


def test_integer_operators_of_onnxruntimes_quantizer_are_found(save: Save) -> None:
    head = "main (float[N,3,8,8] x) => (float[N,4,6,6] y)"
    kernel = RNG.normal(size=(4, 3, 3, 3)).astype(np.float32)
    source = save(f"{head} {{ [conv] c = Conv(x, k) y = Neg(c) }}", "source.onnx", {"k": kernel})
    compiled = save(
        f"""{head} {GRID} {{
            x_quantized = QuantizeLinear(x, s, z)
            [conv_quant] c_quantized = QLinearConv(x_quantized, s, z, k_q, ws, wz, s, z)
            c_float = DequantizeLinear(c_quantized, s, z) y = Neg(c_float)
        }}""",
        "compiled.onnx",
        {"k_q": (100 * kernel).clip(-127, 127).astype(np.int8)},
    )
    feeds = {"x": RNG.normal(size=(1, 3, 8, 8)).astype(np.float32)}
    report = kernel_report(compiled, feeds, source=source)
    assert traced(by_name(report)["conv"]) == ("integer", ("QLinearConv",))


def test_an_embedding_of_integers_is_weight_only(save: Save) -> None:
    head = "main (int64[N,T] i) => (float[N,T,4] y)"
    source = save(f"{head} {{ [embed] e = Gather(w, i) y = Add(e, b) }}", "source.onnx", W)
    compiled = save(
        f"{head} {GRID} {{ [embed] e = Gather(w_q, i) e_dq = DequantizeLinear(e, ws, wz) y = Add(e_dq, b) }}",
        "compiled.onnx",
        W_Q,
    )
    report = kernel_report(compiled, {"i": RNG.integers(4, size=(64, 64))}, Run(threads=1), source=source)
    layer = by_name(report)["embed"]
    assert traced(layer) == ("weight-only", ("Gather",))
    assert layer.overhead == next(n.share for n in report.nodes if n.op_type == "DequantizeLinear")


def test_arithmetic_on_shapes_is_no_layer(save: Save) -> None:
    path = save(
        f"{CUBE} <int64 i = {{0}}> {{ t = Shape(x) k = Gather(t, i) f = Cast <to = 1> (k) y = Mul(x, f) }}"
    )
    assert kernel_report(path, {"x": X}).provenance.layers == ()


def test_a_layer_of_constants_is_gone(save: Save) -> None:
    path = save(f"{CUBE} {{ [folded] c = MatMul(w, w) y = Add(x, c) }}", weights=W)
    feeds = {"x": np.ones((1, 4, 4), np.float32)}
    layer = by_name(kernel_report(path, feeds))["folded"]
    assert traced(layer) == ("gone", ())
    assert layer.share == layer.overhead == 0


def test_layers_of_a_branch_that_did_not_run_take_no_time(save: Save) -> None:
    path = save(
        """main (float[N,T,4] x, bool c) => (float[N,T,4] y) {
            y = If(c) <then_branch = one () => (float[N,T,4] p) { [taken] p = MatMul(x, w) },
                       else_branch = two () => (float[N,T,4] q) { [left] q = MatMul(x, v) }>
        }""",
        weights={**W, "v": 2 * W["w"]},
    )
    layers = by_name(kernel_report(path, {"x": np.tile(X, (200, 10, 1)), "c": np.array(True)}))
    assert traced(layers["taken"]) == traced(layers["left"]) == ("float", ("MatMul",))
    assert layers["taken"].share > 0.5
    assert layers["left"].share == 0


@pytest.mark.parametrize("optimization", ["none", "basic", "extended", "all"])
def test_convolutions_are_found_in_every_layout(save: Save, optimization: str) -> None:
    weights = {f"k{i}": RNG.normal(size=(16, 16, 3, 3)).astype(np.float32) for i in range(3)}
    path = save(
        """main (float[N,16,8,8] x) => (float[N,16,8,8] y) {
            [a] c = Conv <pads = [1, 1, 1, 1]> (x, k0) r = Relu(c)
            [b] d = Conv <pads = [1, 1, 1, 1]> (r, k1) s = Add(d, r) t = Relu(s)
            [c] y = Conv <pads = [1, 1, 1, 1]> (t, k2)
        }""",
        weights=weights,
    )
    feeds = {"x": RNG.normal(size=(1, 16, 8, 8)).astype(np.float32)}
    report = kernel_report(path, feeds, optimization=optimization)  # type: ignore[arg-type]
    layers = by_name(report)
    assert sorted(layers) == ["a", "b", "c"]
    assert all(len(layer.kernels) == 1 and layer.kernels[0].endswith("Conv") for layer in layers.values())
    assert sum(layer.share for layer in layers.values()) <= 1


def test_warnings_name_three_layers_and_count_the_rest() -> None:
    layers = [
        LayerKernel(
            f"conv{i}", "Conv", LayerState.UNFUSED, ("Conv",), 0.1, 0.1, "its output is not quantized"
        )
        for i in range(5)
    ]
    fine = LayerKernel("up", "MatMul", LayerState.INTEGER, ("QLinearMatMul",), 0.1, 0.1)
    unknown = LayerKernel("down", "MatMul", LayerState.UNFUSED, ("MatMul",), 0.1, 0.1)
    provenance = Provenance((*layers, fine, unknown), 0)
    assert provenance.warnings == (
        "Conv 'conv0', 'conv1', 'conv2' and 2 more: in float on values dequantized in each run, "
        "slower than unquantized: its output is not quantized",
        "MatMul 'down': in float on values dequantized in each run, slower than unquantized: "
        "the reason is not known",
    )
    plain = json.loads(json.dumps(provenance.to_dict(), allow_nan=False))
    assert plain["states"]["unfused"] == 6
    assert plain["layers"][5]["kernels"] == ["QLinearMatMul"]
