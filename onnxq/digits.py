"""The handwritten digits that ``onnxq demo`` runs on, and the model trained on them.

The data are scikit-learn's ``load_digits``: 1797 grey images of 8 x 8 pixels, the test part of
"Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, UCI, 1998, CC BY 4.0,
doi:10.24432/C50P49). ``models/train_digits_vit.py`` trains on the same split that is read here, so
the test images are new to the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxq.errors import TargetError

DIGITS_MODEL = Path(__file__).with_name("assets") / "digits_vit.onnx"
"""The vision transformer: ``image`` float32 (N, 1, 8, 8) in 0..1 to ``logits`` float32 (N, 10)."""

SEED = 0
TEST_IMAGES = 500
CALIBRATION_IMAGES = 200
DARKEST = 16.0


@dataclass(frozen=True)
class DigitsSplit:
    """The digits in parts; images are float32 (N, 1, 8, 8) in 0..1, labels int64 (N,).

    ``calibration_images`` are some of ``train_images``; no test image is among them.
    """

    train_images: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    calibration_images: NDArray[np.float32]
    test_images: NDArray[np.float32]
    test_labels: NDArray[np.int64]


def load_digits_split() -> DigitsSplit:
    """Return the split: 1297 images to train on, 200 of them to calibrate with, 500 to test on.

    Both cuts are stratified by digit and seeded: every call gives the same arrays.

    Raises:
        TargetError: scikit-learn, which carries the images, is not installed.

    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise TargetError(
            "the digits need scikit-learn, which is not installed", hint='pip install "onnxq[demo]"'
        ) from error
    pixels, digits = load_digits(return_X_y=True)
    images = (pixels / DARKEST).astype(np.float32).reshape(-1, 1, 8, 8)
    labels = digits.astype(np.int64)
    train, test, train_labels, test_labels = train_test_split(
        images, labels, test_size=TEST_IMAGES, stratify=labels, random_state=SEED
    )
    calibration, _ = train_test_split(
        train, train_size=CALIBRATION_IMAGES, stratify=train_labels, random_state=SEED
    )
    return DigitsSplit(train, train_labels, calibration, test, test_labels)
