"""What the zoo's builders make is what both exporters write, and ONNX Runtime computes."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .architectures import ARCHITECTURES, EXPORTERS, Exporter, export

pytestmark = pytest.mark.export
torch: Any = pytest.importorskip("torch", reason="needs the export extra")
pytest.importorskip("transformers", reason="needs the export extra")
ROUNDING = 1e-5
"""Two layers of at most 128 terms and outputs near 1: some tens of roundings of 6e-8 each."""


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ["bert", "vit"])
def test_an_export_computes_what_its_model_does(name: str, exporter: Exporter, tmp_path: Path) -> None:
    example = ARCHITECTURES[name]()
    path = export(example, tmp_path / "model.onnx", exporter)
    feeds = {name: value.numpy() for name, value in example.inputs.items()}
    with torch.no_grad():
        wanted = example.model(*example.inputs.values()).numpy()
    session = import_module("onnxruntime").InferenceSession(path)
    np.testing.assert_allclose(session.run(None, feeds)[0], wanted, atol=ROUNDING)


def test_the_same_weights_are_drawn_again() -> None:
    first, second = (ARCHITECTURES["bert"]().model.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
