"""The penalty on outliers, and what outliers cost."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxq.ir.text import parse
from onnxq.quant.amplification import amplification
from onnxq.quant.encodings import covering
from onnxq.quant.statistics import Histogram
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session
from onnxq.training.goals import Goal
from onnxq.training.network import network_of
from onnxq.training.penalty import FREE

X = np.random.default_rng(0).normal(size=(400, 2)).astype(np.float32)
X[7, 1] = 9.0


def test_its_gradient_is_that_of_the_formula() -> None:
    """The goal asks for nothing: what is left is the penalty's, by the bias that is added to the tensor."""
    text = """<ir_version: 10, opset_import: ["" : 21]> main (float[N,2] x) => (float[N,2] y)
    <float[2] b = {0.5, -0.25}> { y = Add(x, b) }"""
    network = network_of(parse(text), [Goal("y", "target", "mse")], {"y": 3.0})
    b = np.float32([0.5, -0.25])
    feeds = {"x": X, "b_weight": b, "target": X + b, "strength": np.array(0.5, np.float32)}
    found = open_session(ir.to_proto(network.training.model), Run(threads=1)).run(feeds)
    y = X.astype(np.float64) + b
    mean, deviation = y.mean(), y.std()
    over = np.maximum(np.abs(y - mean) / deviation - FREE, 0)
    np.testing.assert_allclose(found["loss"], 0.5 * 3 * np.square(over).mean(), rtol=1e-4)
    slope = 0.5 * 3 * (2 * over * np.sign(y - mean) / deviation / y.size).sum(axis=0)
    np.testing.assert_allclose(found["b_weight_slope"], slope, rtol=1e-4, atol=1e-9)


def test_what_outliers_amplify_is_told() -> None:
    values = np.random.default_rng(1).normal(size=100_000).astype(np.float32)
    plain = amplification(Histogram.of(values))
    values[::5000] *= 40
    wide = amplification(Histogram.of(values))
    grid = covering(wide.low, wide.high, "uint8")
    # Bins of a histogram are within 1/128 of their values wide: few parts of a hundred in the mean square.
    assert wide.error == pytest.approx(np.square(grid.restored(values) - values).mean(), rel=0.05)
    assert plain.share < 0.5 < 0.98 < wide.share
    assert wide.cutting > wide.error > wide.rounding
