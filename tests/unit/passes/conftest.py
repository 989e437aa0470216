"""Small models with seeded weights, and pipelines run on them."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
import pytest

from onnxq.ir.module import GraphModule, name_of
from onnxq.passmanager.instruments import VerifyEach
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.target import find_target
from onnxq.testing.laws import FeedsData

Build = Callable[..., GraphModule]
Compile = Callable[..., GraphModule]


@pytest.fixture
def build() -> Build:
    """Return a function that makes a module from a graph's text and its weights."""

    def make(
        body: str, weights: Mapping[str, Any], header: str = '<ir_version: 10, opset_import: ["" : 21]>'
    ) -> GraphModule:
        proto = onnx.parser.parse_model(f"{header}\n{body}")
        proto.graph.initializer.extend(
            onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()
        )
        model = ir.from_proto(proto)
        for node in model.graph:
            node.name = node.name or name_of(node.outputs[0])
        return GraphModule(model)

    return make


@pytest.fixture
def compiled() -> Compile:
    """Return a function that runs a pipeline on a module, calibrated on feeds."""

    def run(
        module: GraphModule, pipeline: str, *feeds: Mapping[str, Any], target: str = "cpu"
    ) -> GraphModule:
        measure = FeedsData(feeds).measure if feeds else None
        passes = parse_pipeline(f"infer-shapes,{pipeline}")
        PassManager(passes, find_target(target), [VerifyEach()], measure).run(module)
        return module

    return run
