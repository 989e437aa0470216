"""What the reproduction of PTQ4ViT compares, and how it judges."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from onnxq.passmanager.pipeline import parse_pipeline

pytest.importorskip("onnxruntime", reason="the tool opens models")
pytest.importorskip("sklearn", reason="the tool reads the digits")
TOOLS = Path(__file__).resolve().parents[3] / "tools"


@pytest.fixture(scope="module")
def tools() -> SimpleNamespace:
    names = ("vit_maps", "vit_cases", "reproduce_ptq4vit")
    sys.path.insert(0, str(TOOLS))
    try:
        return SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    finally:
        sys.path.remove(str(TOOLS))


def test_the_reference_code_adds_the_border_to_what_lies_above_and_below(tools: SimpleNamespace) -> None:
    restored = tools.vit_maps._as_coded(0.25, 128)
    step = 1 / 127
    # 0 becomes the border on the coarse grid; 0.75, which that grid nearly holds, is too large by the border.
    np.testing.assert_allclose(restored(np.float32([0])), [np.rint(0.25 / step) * step], rtol=1e-6)
    assert abs(restored(np.float32([0.75]))[0] - 1.0) <= step


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_borders_of_the_paper_lie_on_the_coarse_grid(bits: int, tools: SimpleNamespace) -> None:
    for grid in tools.vit_maps.families(bits)["twin, the paper's formula"]:
        steps = grid.__self__.border / grid.__self__.coarse.scale
        assert steps == np.rint(steps) >= 1


def test_maps_are_what_products_of_attention_read(tools: SimpleNamespace, tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[N,16,4] x) => (float[N,16,4] y)'
        "{ s = Softmax(x) k = Transpose <perm = [0, 2, 1]> (x)"
        " p = MatMul(s, k) q = Softmax(p) y = MatMul(q, x) }"
    )
    onnx.save(model, tmp_path / "m.onnx")
    images = np.random.default_rng(0).normal(size=(2, 16, 4)).astype(np.float32)
    first, second = tools.vit_maps.layers(tmp_path / "m.onnx", "x", images)
    assert first.weights.shape == (2, 2, 4)
    assert second.weights.shape == (2, 2, 16)
    np.testing.assert_array_equal(second.values, images)
    for row in tools.vit_maps.errors(tmp_path / "m.onnx", "x", images, 8):
        assert row["worst layer"] <= row["SQNR dB, mean"]


@pytest.mark.parametrize("bits", [4, 8])
def test_every_row_parses_but_for_passes_that_are_not_there(bits: int, tools: SimpleNamespace) -> None:
    ours = tools.reproduce_ptq4vit
    for name, pipeline in ours.ROWS.items():
        if name != ours.RECONSTRUCTED:
            text = f"{ours.TIDY}, {pipeline.replace('BITS', str(bits))}, {ours.REALISE}"
            assert len(parse_pipeline(text)) > 15


def test_a_row_is_the_mean_of_its_draws(tools: SimpleNamespace, tmp_path: Path) -> None:
    ours, (_, make) = tools.reproduce_ptq4vit, list(tools.vit_cases.subjects(None, None, 40))[-1]
    subject, args = make(), SimpleNamespace(samples=8, draws=2)
    assert len(subject.held_out) == 40
    assert not np.array_equal(subject.drawn(8, 0), subject.drawn(8, 1))
    exact = subject.outputs(subject.model)
    row = ours._drawn("plain", ours.PLAIN.replace("BITS", "8"), subject, exact, args, tmp_path)
    assert row["agree %"] >= 90
    assert row["SQNR dB"] > 20
    assert set(row) == {"row", "score", "agree %", "SQNR dB", "spread"}
    lost = list(ours._lost(subject, 8, [{"row": "fp32", "score": 99.0}, {"row": ours.OURS, "score": 98.0}]))
    assert [one["verdict"] for one in lost] == ["missed"]
