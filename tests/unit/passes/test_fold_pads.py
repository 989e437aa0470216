"""A layer that took over its Pad computes what it did before."""

from collections.abc import Callable

import numpy as np
import pytest

from onnxq.ir.module import GraphModule, is_standard
from onnxq.testing.laws import run_model

Build = Callable[..., GraphModule]

READERS = {
    "conv": "Conv <strides = [2, 1], pads = [1, 0, 0, 2], dilations = [1, 2]> (p, w)",
    "depthwise": "Conv <group = 3, strides = [2, 2]> (p, v)",
    "average": "AveragePool <kernel_shape = [4, 3], strides = [2, 1]> (p)",
    "counting average": "AveragePool <kernel_shape = [4, 4], pads = [1, 0, 0, 1], count_include_pad = 1> (p)",
    "maximum": "MaxPool <kernel_shape = [4, 3], strides = [2, 2]> (p)",
}


@pytest.mark.parametrize("kind", READERS)
def test_folding_a_pad_changes_nothing(kind: str, build: Build, compiled: Callable[..., GraphModule]) -> None:
    """Sums of up to 27 products of whole numbers are exact; an average is rounded once."""
    rng = np.random.default_rng(0)
    weights = {
        "pads": np.array([0, 0, 1, 2, 0, 0, 3, 0]),
        "w": rng.integers(-3, 4, (2, 3, 3, 2)).astype(np.float32),
        "v": rng.integers(-3, 4, (3, 1, 3, 3)).astype(np.float32),
    }
    nodes = f"r = Relu(x) p = Pad(r, pads) y = {READERS[kind]}"
    body = f"main (float[N,3,7,8] x) => (float[N,C,H,W] y) {{ {nodes} }}"
    feeds = {"x": rng.integers(-3, 4, (2, 3, 7, 8)).astype(np.float32)}
    before = run_model(build(body, weights), feeds)["y"]
    module = compiled(build(body, weights), "fold-pads, remove-dead")
    assert not any(is_standard(node, "Pad") for node in module.graph)
    np.testing.assert_allclose(run_model(module, feeds)["y"], before, rtol=2**-23)
