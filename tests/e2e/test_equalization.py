"""Equalization on a trained network whose channels differ in size: what one scale for a tensor costs."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxq.digits import load_digits_split
from onnxq.ir.text import parse
from onnxq.passmanager.manager import PassManager
from onnxq.passmanager.pipeline import parse_pipeline
from onnxq.runtime.run import Run
from onnxq.runtime.session import open_session
from onnxq.target import find_target
from onnxq.testing.laws import FeedsData

pytest.importorskip("sklearn", reason="scikit-learn has the digits")

MODELS = Path(__file__).parents[2] / "models"
TOLD = tomllib.loads((MODELS / "catalog.toml").read_text())["digits_depthwise"]
QUANTIZED = "encode-weights{granularity=tensor}, encode-activations, tie-encodings,"
REALISED = "encode-biases, insert-qdq, remove-dead"


def accuracy(pipeline: str) -> float:
    split = load_digits_split()
    data = FeedsData([{"image": part} for part in np.split(split.calibration_images, 4)])
    module = parse((MODELS / "digits_depthwise.onnxtxt").read_text())
    PassManager(parse_pipeline(f"infer-shapes, {pipeline}"), find_target("cpu"), measure=data.measure).run(
        module
    )
    session = open_session(ir.to_proto(module.model), Run(threads=1))
    logits = session.run({"image": split.test_images})["logits"]
    return 100 * float(np.mean(logits.argmax(axis=1) == split.test_labels))


def test_the_network_is_as_accurate_as_the_catalogue_says() -> None:
    # One image is 0.2 points: within 0.05 the same images are right.
    assert accuracy("remove-dead") == pytest.approx(TOLD["held_out_accuracy"], abs=0.05)


@pytest.mark.usefixtures("kernels_of_the_processor")
def test_one_scale_for_a_tensor_collapses_and_equalization_restores_it() -> None:
    """Ten classes: guessing is right in 10 %; a drop of one point is five of 500 images."""
    assert accuracy(f"{QUANTIZED} {REALISED}") < 30
    restored = accuracy(f"equalize-layers, absorb-bias, {QUANTIZED} {REALISED}")
    corrected = accuracy(
        f"equalize-layers, absorb-bias, {QUANTIZED} correct-bias{{method=empirical}}, {REALISED}"
    )
    assert min(restored, corrected) >= TOLD["held_out_accuracy"] - 1
