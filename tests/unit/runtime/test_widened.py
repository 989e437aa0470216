"""Models of bfloat16, which ONNX Runtime's CPU provider cannot run, are run in float32."""

import ml_dtypes
import numpy as np
import onnx
import onnx.helper as h
import pytest
from onnx import TensorProto as T

from onnxq.errors import ModelError
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session

pytest.importorskip("onnxruntime", reason="it opens the models")


def product(operator: str) -> onnx.ModelProto:
    weight = np.arange(6, dtype=np.float32).reshape(2, 3).astype(ml_dtypes.bfloat16)
    nodes = [
        h.make_node("Cast", ["x"], ["narrow"], to=T.BFLOAT16),
        h.make_node(operator, ["narrow", "w"], ["product"]),
        h.make_node("Cast", ["product"], ["y"], to=T.FLOAT),
    ]
    graph = h.make_graph(
        nodes,
        "g",
        [h.make_tensor_value_info("x", T.FLOAT, ["n", 2])],
        [h.make_tensor_value_info("y", T.FLOAT, None)],
        [h.make_tensor("w", T.BFLOAT16, weight.shape, weight.tobytes(), raw=True)],
    )
    return h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)


def test_a_model_of_bfloat16_is_opened_in_float32() -> None:
    x = np.array([[1.001, 2.002]], np.float32)
    (y,) = open_session(product("MatMul"), Run(threads=1)).run({"x": x}).values()
    # The input is not rounded to bfloat16 either: that would move it by up to 1/256.
    np.testing.assert_allclose(y, x @ np.arange(6, dtype=np.float32).reshape(2, 3), rtol=1e-6)


def test_what_lacks_a_kernel_in_float32_too_is_refused() -> None:
    with pytest.raises(ModelError, match="cannot load it"):
        open_session(product("BitwiseAnd"), Run(threads=1))
