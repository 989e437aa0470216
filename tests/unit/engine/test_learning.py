"""What passes learn with runs graphs whose weights lie in files."""

from pathlib import Path

import numpy as np
import pytest

from onnxq.calibration.data import input_specs, open_feeds
from onnxq.engine.learning import Learning
from onnxq.engine.measurements import Measurements
from onnxq.ir.external import MappedTensor
from onnxq.ir.store import load_model, save_model
from onnxq.ir.text import parse
from onnxq.progress import quiet

pytest.importorskip("onnxruntime", reason="graphs are run")

GRAPH = """<ir_version: 10, opset_import: ["" : 21]>
main (float[N,64] x) => (float[N,64] y) <float[64,64] w = {WEIGHT}> { [product] y = MatMul(x, w) }
"""


def test_a_graph_with_weights_in_a_data_file_is_run(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weight, rows = (rng.normal(size=size).astype(np.float32) for size in ((64, 64), (4, 64)))
    numbers = ",".join(map(str, weight.ravel().tolist()))
    save_model(parse(GRAPH.replace("WEIGHT", numbers)), tmp_path / "model.onnx", external_data=True)
    module = load_model(tmp_path / "model.onnx")
    assert isinstance(module.graph.initializers["w"].const_value, MappedTensor)
    data = open_feeds("rows", lambda: [{"x": rows}], input_specs(module.model))
    learning = Learning(Measurements.on(data, 1, quiet))
    (feeds,) = learning.batches()
    found = learning.open(module)(feeds)["y"]
    np.testing.assert_allclose(found, rows @ weight, atol=1e-4)  # float32 sums of 64 products of about 1
