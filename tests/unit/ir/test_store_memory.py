"""Reading and writing a model larger than what one protobuf message holds, in little memory."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxq.ir.store import model_size

STREAM = """
import resource, sys
from pathlib import Path
from onnxq.ir.store import load_model, model_digest, save_model
folder = Path(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
save_model(load_model(folder / "m.onnx"), folder / "out.onnx")
model_digest(folder / "out.onnx")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_a_model_above_two_gigabytes_needs_little_memory(tmp_path: Path) -> None:
    if "ONNXQ_SLOW" not in os.environ:
        pytest.skip("writes 5 GB: set ONNXQ_SLOW=1 to run it")
    count, shape = 24, (5000, 5000)  # 24 weights of 100 MB
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(count)]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 5000]) for name in ("x0", f"x{count}")
    ]
    made = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    block = np.random.default_rng(0).normal(size=shape).astype(np.float32).tobytes()
    with (tmp_path / "m.data").open("wb") as file:
        for index in range(count):
            weight = model.graph.initializer.add(name=f"w{index}", data_type=TensorProto.FLOAT, dims=shape)
            weight.data_location = TensorProto.EXTERNAL
            for key, number in (("offset", index * len(block)), ("length", len(block))):
                weight.external_data.add(key=key, value=str(number))
            weight.external_data.add(key="location", value="m.data")
            file.write(block)
    onnx.save(model, tmp_path / "m.onnx")
    result = subprocess.run(
        [sys.executable, "-c", STREAM, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert model_size(tmp_path / "out.onnx") > 2_400_000_000
    assert int(result.stdout) < 200  # MB; two blocks of 32 MB and the libraries' own buffers
