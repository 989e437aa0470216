"""Small models for the tests of the runtime."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import pytest

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Return a function that writes a graph's text, with weights, as a model file."""

    def write(
        body: str, name: str = "model.onnx", weights: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Path:
        model = onnx.parser.parse_model(
            f'<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>\n{body}'
        )
        model.graph.initializer.extend(
            onnx.numpy_helper.from_array(np.asarray(array), key) for key, array in (weights or {}).items()
        )
        onnx.save_model(model, tmp_path / name, **kwargs)
        return tmp_path / name

    return write


@pytest.fixture
def qdq_matmul(save: Save) -> Path:
    """Return a MatMul between QuantizeLinear and DequantizeLinear, with a float bias and a Relu."""
    weight = np.random.default_rng(0).integers(-127, 128, (4, 8)).astype(np.int8)
    return save(
        """main (float[N,T,4] x) => (float[N,T,8] y)
        <float x_s = {0.05}, uint8 x_z = {128}, float w_s = {0.01}, int8 w_z = {0}>
        {
            x_q = QuantizeLinear(x, x_s, x_z)
            x_dq = DequantizeLinear(x_q, x_s, x_z)
            w_dq = DequantizeLinear(w, w_s, w_z)
            m = MatMul(x_dq, w_dq)
            [bias] a = Add(m, b)
            y = Relu(a)
        }""",
        "qdq.onnx",
        {"w": weight, "b": np.arange(8, dtype=np.float32)},
    )
