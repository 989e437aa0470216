"""Models in float16 through every recipe: the result opens, and computes what the source does."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxq.testing.routes import Route, recipe_routes
from onnxq.testing.trials import try_route

pytest.importorskip("onnxruntime", reason="the laws run models")

# ONNX Runtime 1.32.0 fuses these nodes behind a Cast from float16 into a LayerNormalization of two types, and
# then refuses to load it
NORM = """
<ir_version: 10, opset_import: ["" : 18]>
main (float16[N,4] x) => (float16[N,4] y)
<int64[1] last = {-1}, float[4] gamma32 = {0.5, 1, 2, -1}, float[4] beta32 = {1, -1, 0.25, 0},
 float two32 = {2}, float small32 = {0.1}>
{
    gamma = Cast<to = 10>(gamma32)
    beta = Cast<to = 10>(beta32)
    two = Cast<to = 10>(two32)
    small = Cast<to = 10>(small32)
    mean = ReduceMean(x, last)
    centred = Sub(x, mean)
    square = Pow(centred, two)
    variance = ReduceMean(square, last)
    safe = Add(variance, small)
    deviation = Sqrt(safe)
    divided = Div(centred, deviation)
    scaled = Mul(divided, gamma)
    y = Add(scaled, beta)
}
"""


@pytest.mark.parametrize("route", recipe_routes(), ids=lambda route: route.name)
def test_a_norm_that_is_written_out_in_float16(route: Route) -> None:
    feeds = {"x": np.linspace(-2, 2, 12).reshape(3, 4).astype(np.float16)}
    try_route(onnx.parser.parse_model(NORM), feeds, route)
