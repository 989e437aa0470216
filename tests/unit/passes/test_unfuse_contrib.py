"""Operators of ONNX Runtime's own, run by it before and after they are written out."""

import re
from collections.abc import Callable

import numpy as np
import pytest

from onnxq.ir.module import GraphModule
from onnxq.testing.laws import run_model

pytest.importorskip("onnxruntime", reason="the operators are ONNX Runtime's")

Build = Callable[..., GraphModule]
Compile = Callable[..., GraphModule]

HEADER = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>'
WIDTH, HEADS = 32, 4
HIDDEN = "float[B,T,32]"


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


FEEDS = {
    "x": numbers(2, 6, WIDTH, seed=1),
    "skip": numbers(2, 6, WIDTH, seed=2),
    "ids": np.random.default_rng(3).integers(0, 11, (2, 6)).astype(np.int32),
    "segments": np.array([[0, 0, 0, 1, 1, 1], [0, 1, 1, 1, 1, 1]], np.int32),
    "mask": np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]], np.int32),
    "bias": numbers(2, HEADS, 6, 6, seed=4),
}
TYPES = {
    "x": HIDDEN,
    "skip": HIDDEN,
    "ids": "int32[B,T]",
    "segments": "int32[B,T]",
    "mask": "int32[B,T]",
    "bias": "float[B,4,T,T]",
}
CONSTANTS = {
    "w": numbers(WIDTH, 3 * WIDTH, seed=5) / 4,
    "v": numbers(WIDTH, 2 * WIDTH + 16, seed=6) / 4,
    "b": numbers(3 * WIDTH, seed=7),
    "c": numbers(WIDTH, seed=8),
    "g": numbers(WIDTH, seed=9),
    "words": numbers(11, WIDTH, seed=10),
    "places": numbers(9, WIDTH, seed=11),
    "parts": numbers(2, WIDTH, seed=12),
}
CASES = {
    "attention": "y = com.microsoft.Attention <num_heads: int = 4> (x, w, b)",
    "attention without biases": "y = com.microsoft.Attention <num_heads: int = 4> (x, w)",
    "attention by a mask": "y = com.microsoft.Attention <num_heads: int = 4> (x, w, b, mask)",
    "attention by lengths": """axes = Constant <value_ints: ints = [1]> ()
        n = ReduceSum <keepdims: int = 0> (mask, axes)
        y = com.microsoft.Attention <num_heads: int = 4, mask_filter_value: float = -3e38> (x, w, b, n)""",
    "attention with a bias": """y = com.microsoft.Attention <num_heads: int = 4, scale: float = 0.3>
        (x, w, b, , , bias)""",
    "attention of narrow values": """y = com.microsoft.Attention
        <num_heads: int = 4, qkv_hidden_sizes: ints = [32, 32, 16]> (x, v)""",
    "bias and gelu": "y = com.microsoft.BiasGelu(x, c)",
    "gelu": "y = com.microsoft.Gelu(x)",
    "fast gelu": "y = com.microsoft.FastGelu(x)",
    "bias and fast gelu": "y = com.microsoft.FastGelu(x, c)",
    "skip": "y = com.microsoft.SkipLayerNormalization <epsilon: float = 1e-5> (x, skip, g)",
    "skip and biases": "y = com.microsoft.SkipLayerNormalization <epsilon: float = 1e-5> (x, skip, g, c, c)",
    "the sum of a skip": """z, m, s, t = com.microsoft.SkipLayerNormalization <epsilon: float = 1e-5>
        (x, skip, g, c) y = Add(z, t)""",
    "embedding": "y, n = com.microsoft.EmbedLayerNormalization(ids, , words, places, , g, c)",
    "embedding of segments": """y, n = com.microsoft.EmbedLayerNormalization <epsilon: float = 1e-5>
        (ids, segments, words, places, parts, g, c)""",
    "embedding and lengths": """e, n = com.microsoft.EmbedLayerNormalization
        (ids, segments, words, places, parts, g, c, mask)
        y = com.microsoft.Attention <num_heads: int = 4> (e, w, b, n)""",
    "product": "y = com.microsoft.FusedMatMul <transB: int = 1, alpha: float = 0.3> (x, words)",
    "product of values": """y = com.microsoft.FusedMatMul
        <transA: int = 1, transB: int = 0, alpha: float = 0.3> (x, skip)""",
}


@pytest.mark.parametrize("case", CASES)
def test_an_operator_is_the_same_written_out(case: str, build: Build, compiled: Compile) -> None:
    body = CASES[case]
    words = set(re.findall(r"\w+", body))
    fed = {name: array for name, array in FEEDS.items() if name in words}
    constants = {name: array for name, array in CONSTANTS.items() if name in words}
    inputs = ", ".join(f"{TYPES[name]} {name}" for name in fed)
    module = build(f"main ({inputs}) => (float y) {{ {body} }}", constants, HEADER)
    before = run_model(module, fed)["y"]
    compiled(module, "lift-constants,unfuse-contrib,infer-shapes,fold-constants,remove-dead")
    assert {node.domain for node in module.graph} == {""}
    after = run_model(module, fed)["y"]
    # Float32 rounding over the longest sum, of 96 numbers, and ONNX Runtime's own approximation of tanh.
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=3e-5)
