"""A judge knows by heart what the source gave, so that it need not stay open beside forms that race."""

from pathlib import Path

import numpy as np
import pytest

from onnxq.calibration.data import Batch
from onnxq.engine.judge import Judge
from onnxq.engine.score import Remembered
from onnxq.ir.store import save_model
from onnxq.ir.text import parse

TEXT = """<ir_version: 10, opset_import: ["" : 17]>
main (float[N,4] x) => (float[N,4] y) { y = OP(x) }
"""


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Return the files of two models."""
    found = [tmp_path / f"{op}.onnx" for op in ("Relu", "Abs")]
    for path in found:
        save_model(parse(TEXT.replace("OP", path.stem)), path)
    return found


def test_the_source_is_closed_once_its_results_are_known(paths: list[Path]) -> None:
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    batches = [Batch({"x": part}, None, 1) for part in np.split(x, 3)]
    source, other = paths
    judge = Judge(source, batches, None, lambda report: [])
    first, _ = judge.of(other)
    reference = judge._reference
    assert isinstance(reference, Remembered)
    assert reference.inference is None
    again, _ = judge.of(other)
    assert again.outputs == first.outputs
    assert judge.of(source)[0].outputs[0].max_abs == 0
