"""Gradients of whole models: every weight, along random directions, in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxq.autodiff import prepared
from onnxq.autodiff.paths import Paths
from onnxq.ir.module import GraphModule, name_of
from onnxq.ir.store import load_model
from onnxq.ir.text import parse
from onnxq.testing.gradients import assert_gradient
from onnxq.testing.running import Array

BATCH = 2


def feeds_of(module: GraphModule) -> dict[str, Array]:
    rng = np.random.default_rng(5)
    feeds = {}
    for value in module.graph.inputs:
        shape = [axis if isinstance(axis, int) else BATCH for axis in value.shape or ()]
        dtype = np.dtype(value.dtype.numpy())
        feeds[name_of(value)] = (
            rng.normal(size=shape).astype(dtype) if dtype.kind == "f" else rng.integers(0, 2, shape, dtype)
        )
    return feeds


def weights_of(module: GraphModule, of: str) -> list[str]:
    constants = [one for one in module.graph.initializers.values() if one.dtype.is_floating_point()]
    ways = Paths.between(list(module.graph), [module.by_name()[of]], constants)
    return [name_of(one) for one in constants if one in ways.made_into and one.const_value.size > 1]


@pytest.mark.parametrize(
    "name",
    [
        *("bert_tiny_emotion.onnx", "conv1d", "conv_batchnorm", "conv_branches", "conv_pool_head"),
        *("conv_transpose", "depthwise_conv", "digits_depthwise", "embedding_norm", "experts_in_a_row"),
        *("gemm_alpha_beta", "self_attention", "shape_chain", "shared_weight", "tied_embedding"),
    ],
)
def test_all_weights_of_a_model(name: str, models: Path) -> None:
    path = models / name
    loaded = load_model(path) if path.suffix else parse(path.with_suffix(".onnxtxt").read_text())
    module = prepared(loaded)
    of = name_of(module.graph.outputs[0])
    assert_gradient(module, feeds_of(module), weights_of(module, of), of=of, directions=1)
