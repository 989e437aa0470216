"""All attention of the zoo's exports is fused, but for what is listed, and the numbers stay."""

from pathlib import Path

import pytest

from .architectures import ARCHITECTURES, EXPORTERS, Exporter, export
from .attention import attention_of

pytestmark = pytest.mark.export
pytest.importorskip("torch", reason="needs the export extra")
pytest.importorskip("transformers", reason="needs the export extra")
UNREADABLE = frozenset({"bloom", "deberta_v2", "detr", "torch_encoder"})
"""Written by TorchScript, they hide what joins samples and heads in shapes that nobody knows before a run."""


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ["bert", "clip_text", "swin"])
def test_attention_of_common_exports_is_fused(name: str, exporter: Exporter, tmp_path: Path) -> None:
    assert attention_of(export(ARCHITECTURES[name](), tmp_path / "model.onnx", exporter)).whole


@pytest.mark.slow
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_attention_of_each_export_is_fused(name: str, exporter: Exporter, tmp_path: Path) -> None:
    try:
        path = export(ARCHITECTURES[name](), tmp_path / "model.onnx", exporter)
    except RuntimeError as error:
        pytest.skip(f"torch cannot export it: {error}")
    whole = attention_of(path).whole
    assert whole or (exporter == "torchscript" and name in UNREADABLE)
