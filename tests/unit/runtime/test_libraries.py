"""Operators in libraries: what names them, and what cannot be loaded."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxq.errors import InputError, ModelError
from onnxq.runtime.libraries import LIBRARIES
from onnxq.runtime.session import open_session


def model(path: Path) -> Path:
    """Write a model with an operator of onnxruntime-extensions: the inverse of a matrix."""
    nodes = [
        helper.make_node("Inverse", ["x"], ["h"], domain="ai.onnx.contrib"),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 4]) for name in "xy")
    graph = helper.make_graph(
        nodes, "g", [x], [y], [numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")]
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.contrib", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path


def test_an_operator_of_a_library_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extensions = pytest.importorskip("onnxruntime_extensions", reason="has operators to try")
    path = model(tmp_path / "model.onnx")
    with pytest.raises(ModelError, match="Inverse"):
        open_session(path)
    monkeypatch.setenv(LIBRARIES, extensions.get_library_path())
    found = open_session(path).run({"x": 2 * np.eye(4, dtype=np.float32)})
    np.testing.assert_array_equal(found["y"], np.eye(4) / 2)


def test_what_is_no_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "library.so"
    path.write_text("no library")
    monkeypatch.setenv(LIBRARIES, str(path))
    with pytest.raises(InputError, match="cannot load this library of operators") as caught:
        open_session(model(tmp_path / "model.onnx"))
    assert caught.value.where == str(path)
