"""Straight through what is rounded, and the gradients of scales, against the formulas of LSQ."""

from __future__ import annotations

import numpy as np
import pytest

from onnxq.autodiff import GradientError, gradient_model
from onnxq.ir.text import parse
from onnxq.testing.running import run_model

TEXT = """<ir_version: 10, opset_import: ["" : 21]>
main (float[N,4,2] x, float[SHAPE] s) => (float[N,4,2] y)
<TYPE[SHAPE] z = {ZEROS}>
{
    q = QuantizeLinear<axis=1>(x, s, z)
    t = Transpose<perm=[1,0,2]>(q)
    u = Transpose<perm=[1,0,2]>(t)
    y = DequantizeLinear<axis=1>(u, s, z)
}
"""
RNG = np.random.default_rng(1)
X = RNG.normal(size=(3, 4, 2)).astype(np.float32)
SEED = RNG.normal(size=(3, 4, 2)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize(("shape", "zeros"), [("4", "3, 100, 5, 0"), ("", "20"), ("1", "20")])
def test_scale_and_input_of_a_pair(dtype: str, shape: str, zeros: str) -> None:
    text = TEXT.replace("[SHAPE]", f"[{shape}]" if shape else "").replace("TYPE", dtype)
    zero = np.array([float(one) for one in zeros.split(",")])
    scale = np.linspace(0.004, 0.02, zero.size).astype(np.float32)
    model = gradient_model(parse(text.replace("ZEROS", zeros)), of="y", wrt=["x", "s"], seeded=True)
    given = scale.reshape([int(shape)] if shape else [])
    found = run_model(model, {"x": X, "s": given, "seed": SEED})

    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    v, z = X.astype(np.float64) / scale.reshape(-1, 1), zero.reshape(-1, 1)
    inside = (np.round(v) + z >= low) & (np.round(v) + z <= high)
    assert 0 < inside.sum() < inside.size
    of_scale = SEED * (np.clip(np.round(v) + z, low, high) - z - inside * v)
    axes = (0, 2) if shape == "4" else None
    np.testing.assert_array_equal(found["x_grad"] == 0, ~inside)
    # the scale divides and multiplies: a few roundings of float32
    np.testing.assert_allclose(found["x_grad"], SEED * inside, rtol=1e-6, atol=0)
    # what is summed is a difference of terms as large as v: each is off by its rounding
    expected = of_scale.sum(axes).reshape(given.shape)
    bound = 8 * np.finfo(np.float32).eps * np.abs(SEED * v).sum()
    np.testing.assert_allclose(found["s_grad"], expected, rtol=0, atol=bound)


def test_scales_of_blocks_are_refused() -> None:
    text = '<ir_version: 10, opset_import: ["" : 21]> main (float[4,2] x, float[2,2] s) => (float[4,2] y) '
    nodes = (
        "{ q = QuantizeLinear<axis=0, block_size=2>(x, s) y = DequantizeLinear<axis=0, block_size=2>(q, s) }"
    )
    with pytest.raises(GradientError, match="its scales are those of blocks"):
        gradient_model(parse(text + nodes), of="y", wrt=["x"])
