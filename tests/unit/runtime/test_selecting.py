"""Detectors: a box more or less is no error, and a box that moved is."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxq.runtime.seeded import open_comparable
from onnxq.runtime.validate import validate
from onnxq.testing.laws import FeedsBatch

Save = Callable[..., Path]
BODY = """main (float[1,50,4] b, float[1,2,50] s) => (int64[K,3] taken, float[1,50,4] boxes)
{
    most = Constant <value = int64 {50}> ()
    overlap = Constant <value = float {0.5}> ()
    least = Constant <value = float {LEAST}> ()
    boxes = Mul(b, scale)
    taken = NonMaxSuppression(boxes, s, most, overlap, least)
}"""


def detector(save: Save, name: str, scale: float = 1.0, least: str = "0.5") -> Path:
    return save(BODY.replace("LEAST", least), name, {"scale": np.array(scale, np.float32)})


@pytest.fixture
def batch() -> FeedsBatch:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 1, (1, 50, 4)).astype(np.float32)
    return FeedsBatch({"b": corners, "s": rng.uniform(0, 1, (1, 2, 50)).astype(np.float32)})


def test_other_boxes_are_taken_and_the_same_is_compared(save: Save, batch: FeedsBatch) -> None:
    report = validate(detector(save, "a.onnx"), detector(save, "b.onnx", least="0.6"), [batch])
    names = [one.name for one in report.outputs]
    assert names == ["boxes", "NonMaxSuppression_0_boxes", "NonMaxSuppression_0_scores"]
    assert [one.max_abs for one in report.outputs] == [0, 0, 0]
    (note,) = report.notes
    assert (
        note == "'taken': depends on which boxes NonMaxSuppression takes; compared is what it takes them from"
    )


def test_a_model_in_memory_returns_the_same(save: Save, batch: FeedsBatch) -> None:
    path = detector(save, "a.onnx")
    report = validate(path, open_comparable(onnx.load(path)), [batch])
    assert [one.max_abs for one in report.outputs] == [0, 0, 0]


def test_boxes_that_moved_are_an_error(save: Save, batch: FeedsBatch) -> None:
    report = validate(detector(save, "a.onnx"), detector(save, "b.onnx", scale=1.1), [batch])
    # ten per cent of each value: 20 dB, up to the rounding of float32
    assert report.outputs[1].sqnr_db == pytest.approx(20, abs=1e-3)


def test_where_the_data_decides_on_sizes_what_is_missing_is_zero(save: Save) -> None:
    text = """main (float[4] x) => (float[K] y)
    {{ some = Greater(x, least) y = Compress(x, some) }}"""
    first, second = (
        save(
            text.replace("{{", "{").replace("}}", "}"),
            f"{least}.onnx",
            {"least": np.array(least, np.float32)},
        )
        for least in (0.0, 3.5)
    )
    batch = FeedsBatch({"x": np.array([4, 1, 2, 3], np.float32)})
    (output,) = validate(first, second, [batch]).outputs
    assert output.compared == 4
    assert output.sqnr_db == pytest.approx(10 * np.log10((16 + 1 + 4 + 9) / (1 + 4 + 9)))
