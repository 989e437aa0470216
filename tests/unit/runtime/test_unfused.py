"""Why layers stay in float between Q and DQ: each reason is asked of the installed ONNX Runtime.

A pattern that fuses where this file says it does not, or the other way round, is news: the runtime changed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from onnxq.runtime.kernels import LayerKernel, LayerState, kernel_report
from onnxq.runtime.run import Run
from onnxq.runtime.session import Optimization

Save = Callable[..., Path]

RNG = np.random.default_rng(0)
WEIGHTS = {
    "s": np.float32(0.05),
    "z": np.uint8(128),
    "z0": np.uint8(0),
    "zs": np.int8(0),
    "z16": np.uint16(30000),
    "w": RNG.integers(-127, 128, (16, 8)).astype(np.int8),
    "w_t": RNG.integers(-127, 128, (8, 16)).astype(np.int8),
    "w_conv": RNG.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8),
    "w_grow": RNG.integers(-127, 128, (3, 4, 2, 2)).astype(np.int8),
    "w_float": RNG.normal(size=(16, 8)).astype(np.float32),
    "ws": np.float32(0.01),
    "wz": np.int8(0),
    "bias": np.ones(8, np.float32),
    "bias_q": np.ones(8, np.int32),
    "bs": np.float32(0.0005),
    "bz": np.int32(0),
}
CUBE = "float[N,T,16] x", "float[N,T,8] y"
FLAT = "float[N,16] x", "float[N,8] y"
IMAGE = "float[N,3,8,8] x", "float[N,4,6,6] y"
GROWN = "float[N,3,8,8] x", "float[N,4,9,9] y"
SHAPES = {CUBE: (2, 3, 16), FLAT: (2, 16), IMAGE: (1, 3, 8, 8), GROWN: (1, 3, 8, 8)}

X = "xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z)"
X_SIGNED = X.replace("z)", "zs)")
X_WIDE = X.replace("z)", "z16)")
X_DYNAMIC = "xq, xs, xz = DynamicQuantizeLinear(x) xd = DequantizeLinear(xq, xs, xz)"
W = "wd = DequantizeLinear(w, ws, wz)"
W_T = "wd = DequantizeLinear(w_t, ws, wz)"
W_CONV = "wd = DequantizeLinear(w_conv, ws, wz)"
W_GROW = "wd = DequantizeLinear(w_grow, ws, wz)"
BIAS = "bd = DequantizeLinear(bias_q, bs, bz)"
Y = "yq = QuantizeLinear(m, s, z) y = DequantizeLinear(yq, s, z)"


class Pattern(NamedTuple):
    """A graph, and why its layers are not fused; None where they are."""

    types: tuple[str, str]
    body: str
    reason: str | None
    optimization: Optimization = "all"


PATTERNS = {
    "MatMul": Pattern(CUBE, f"{X} {W} y = MatMul(xd, wd)", None),
    "below extended": Pattern(CUBE, f"{X} {W} y = MatMul(xd, wd)", "below ORT_ENABLE_EXTENDED", "basic"),
    "2-D MatMul and Add": Pattern(
        FLAT, f"{X} {W} m = MatMul(xd, wd) y = Add(m, bias)", "write the Add as Sum"
    ),
    "2-D MatMul and Sum": Pattern(FLAT, f"{X} {W} m = MatMul(xd, wd) y = Sum(m, bias)", None),
    "Gemm, float bias": Pattern(FLAT, f"{X} {W} y = Gemm(xd, wd, bias)", "its bias is float"),
    "Gemm, int32 bias": Pattern(FLAT, f"{X} {W} {BIAS} y = Gemm(xd, wd, bd)", None),
    "Gemm, alpha": Pattern(FLAT, f"{X} {W} {BIAS} y = Gemm <alpha = 0.5> (xd, wd, bd)", "alpha or beta"),
    "int8 input": Pattern(CUBE, f"{X_SIGNED} {W} y = MatMul(xd, wd)", None),
    "int8 input, shared": Pattern(
        CUBE,
        f"{X_SIGNED} {W} vd = DequantizeLinear(w_t, ws, wz) v = Transpose(vd) "
        "m = MatMul(xd, wd) n = MatMul(xd, v) y = Add(m, n)",
        "int8 input is shared",
    ),
    "uint16 input": Pattern(CUBE, f"{X_WIDE} {W} y = MatMul(xd, wd)", None),
    "uint16 output": Pattern(
        CUBE, f"{X} {W} m = MatMul(xd, wd) {Y.replace('z)', 'z16)')}", "no integer kernel for uint16"
    ),
    "float weight": Pattern(CUBE, f"{X} y = MatMul(xd, w_float)", "only one of its two inputs"),
    "Conv": Pattern(IMAGE, f"{X} {W_CONV} m = Conv(xd, wd) {Y}", None),
    "Conv, float output": Pattern(IMAGE, f"{X} {W_CONV} y = Conv(xd, wd)", "its output is not quantized"),
    "Conv, Gelu before Q": Pattern(
        IMAGE, f"{X} {W_CONV} c = Conv(xd, wd) m = Gelu(c) {Y}", "its output is not quantized"
    ),
    "Conv, output read twice": Pattern(
        IMAGE,
        f"{X} {W_CONV} m = Conv(xd, wd) {Y.replace('y =', 'yd =')} n = Neg(m) y = Add(yd, n)",
        "read in float too",
    ),
    "Conv, dynamic": Pattern(IMAGE, f"{X_DYNAMIC} {W_CONV} y = Conv(xd, wd)", "Conv has no kernel for that"),
    "Gemm, dynamic": Pattern(FLAT, f"{X_DYNAMIC} {W} y = Gemm(xd, wd, bias)", "Gemm has no kernel for that"),
    "MatMul, dynamic": Pattern(CUBE, f"{X_DYNAMIC} {W} y = MatMul(xd, wd)", None),
    "Conv, int8 output read twice": Pattern(
        IMAGE,
        f"{X_SIGNED} {W_CONV} m = Conv(xd, wd) yq = QuantizeLinear(m, s, zs) "
        "a = DequantizeLinear(yq, s, zs) b = DequantizeLinear(yq, s, zs) n = Neg(a) y = Add(n, b)",
        "use uint8",
    ),
    "ConvTranspose": Pattern(
        GROWN, f"{X} {W_GROW} m = ConvTranspose(xd, wd) {Y}", "no integer kernel for ConvTranspose"
    ),
    "Relu read in float": Pattern(
        CUBE, f"{X} {W} m = MatMul(xd, wd) r = Relu(m) y = Neg(r)", "Relu or Clip behind it is read in float"
    ),
    "Relu behind a Sum": Pattern(
        CUBE, f"{X} {W} m = MatMul(xd, wd) b = Sum(m, bias) r = Relu(b) y = Neg(r)", None
    ),
    "Gemm, Relu read in float": Pattern(
        FLAT, f"{X} {W} m = Gemm(xd, wd) r = Relu(m) y = Neg(r)", "Relu or Clip behind it is read in float"
    ),
    "Relu, Q from -128": Pattern(
        CUBE, f"{X} {W} r = MatMul(xd, wd) m = Relu(r) {Y}", "not spared by its QuantizeLinear"
    ),
    "Relu, Q from 0": Pattern(CUBE, f"{X} {W} r = MatMul(xd, wd) m = Relu(r) {Y.replace('z)', 'z0)')}", None),
    "Conv, Relu, Q from -128": Pattern(
        IMAGE, f"{X} {W_CONV} r = Conv(xd, wd) m = Relu(r) {Y}", "not spared by its QuantizeLinear"
    ),
    "weight-only MatMul": Pattern(CUBE, f"{W} y = MatMul(x, wd)", None),
    "weight-only Gemm": Pattern(FLAT, f"{W} y = Gemm(x, wd, bias)", None),
    "weight-only Gemm, transB": Pattern(
        FLAT, f"{W_T} y = Gemm <transB = 1> (x, wd, bias)", "with transB, alpha or beta"
    ),
    "weight-only Gemm, beta": Pattern(
        FLAT, f"{W} y = Gemm <beta = 0.5> (x, wd, bias)", "with transB, alpha or beta"
    ),
    "weight-only Conv": Pattern(IMAGE, f"{W_CONV} y = Conv(x, wd)", "Conv has no kernel for that"),
    "weight-only, shared": Pattern(
        CUBE, f"{W} p = Neg(x) m = MatMul(x, wd) n = MatMul(p, wd) y = Add(m, n)", "store them twice"
    ),
}


def layers(save: Save, pattern: Pattern) -> tuple[LayerKernel, ...]:
    given, result = pattern.types
    path = save(f"main ({given}) => ({result}) {{ {pattern.body} }}", weights=WEIGHTS)
    feeds = {"x": RNG.normal(size=SHAPES[pattern.types]).astype(np.float32)}
    report = kernel_report(path, feeds, Run(threads=1), optimization=pattern.optimization, runs=1)
    return report.provenance.layers


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_each_pattern_fuses_or_says_why_not(save: Save, pattern: Pattern) -> None:
    for layer in layers(save, pattern):
        if pattern.reason is None:
            assert layer.state in (LayerState.INTEGER, LayerState.WEIGHT_ONLY)
            assert layer.reason is None
        else:
            assert layer.state is LayerState.UNFUSED
            assert pattern.reason in (layer.reason or "")


def test_a_table_that_is_dequantized_whole(save: Save) -> None:
    rows = RNG.integers(-127, 128, (50, 8)).astype(np.int8)
    body = "t = DequantizeLinear(rows, ws, wz) y = Gather(t, i)"
    path = save(f"main (int64[N] i) => (float[N,8] y) {{ {body} }}", weights=WEIGHTS | {"rows": rows})
    layer = kernel_report(path, {"i": np.arange(3)}).provenance.layers[0]
    assert (layer.op_type, layer.state) == ("Gather", LayerState.UNFUSED)
    assert "gather the integers" in (layer.reason or "")
