"""Who is faster is told from who is not, in the time that there is."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxq.runtime.bench import Spread
from onnxq.runtime.race import FIRST_ROUNDS, Standing, race
from onnxq.runtime.run import Run


def _model(path: Path, products: int) -> Path:
    names = ["x", *(f"h{number}" for number in range(products - 1)), "y"]
    body = " ".join(f"{after} = MatMul({before}, w)" for before, after in pairwise(names))
    graph = onnx.parser.parse_graph(f"main (float[96,96] x) => (float[96,96] y) {{ {body} }}")
    graph.initializer.append(onnx.numpy_helper.from_array(np.eye(96, dtype=np.float32), "w"))
    opset = onnx.helper.make_opsetid("", 21)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), path)
    return path


def test_ten_times_the_work_is_slower_and_leaves_early(tmp_path: Path) -> None:
    """Ten products against one: a factor that no load of the machine turns round in five rounds."""
    models = {"one": _model(tmp_path / "one.onnx", 1), "ten": _model(tmp_path / "ten.onnx", 10)}
    rounds: list[int] = []
    found = race(
        models,
        [{"x": np.eye(96, dtype=np.float32)}],
        Run(threads=1),
        on_progress=lambda done, total: rounds.append(done),
    )
    assert found["ten"].gain.median < 0.5
    assert not found["ten"].faster
    assert rounds[-1] == FIRST_ROUNDS


@pytest.mark.parametrize(
    ("gain", "faster", "doubtful"),
    [
        (Spread(1.2, 1.1, 1.3), True, False),
        (Spread(1.2, 0.9, 1.6), False, True),  # it looks faster, and one round in ten says the contrary
        (Spread(1.005, 1.001, 1.01), False, False),
        (Spread(0.8, 0.7, 1.2), False, False),
    ],
)
def test_the_noise_decides_what_is_clear(gain: Spread, faster: bool, doubtful: bool) -> None:
    standing = Standing(gain)
    assert (standing.faster, standing.doubtful) == (faster, doubtful)
