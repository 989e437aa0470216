"""The split that the demo and the training script share."""

import sys

import numpy as np
import pytest

from onnxq.digits import DIGITS_MODEL, load_digits_split
from onnxq.errors import TargetError


def test_the_parts_have_their_sizes_types_and_range() -> None:
    split = load_digits_split()
    assert split.train_images.shape == (1297, 1, 8, 8)
    assert split.calibration_images.shape == (200, 1, 8, 8)
    assert split.test_images.shape == (500, 1, 8, 8)
    for images in (split.train_images, split.calibration_images, split.test_images):
        assert images.dtype == np.float32
        assert (images.min(), images.max()) == (0, 1)
    for labels, images in (
        (split.train_labels, split.train_images),
        (split.test_labels, split.test_images),
    ):
        assert labels.dtype == np.int64
        assert labels.shape == images.shape[:1]


def test_calibration_images_are_training_images_and_test_images_are_new() -> None:
    split = load_digits_split()
    train = {image.tobytes() for image in split.train_images}
    assert all(image.tobytes() in train for image in split.calibration_images)
    assert not any(image.tobytes() in train for image in split.test_images)


def test_every_digit_has_its_share_of_the_test_images() -> None:
    # 1797 images hold 174 to 183 of each digit; stratified, 500 of them hold 48 to 51.
    counts = np.bincount(load_digits_split().test_labels)
    assert counts.min() >= 48
    assert counts.max() <= 51


def test_every_call_gives_the_same_split() -> None:
    first, second = load_digits_split(), load_digits_split()
    for name in vars(first):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(
        TargetError, match=r"^the digits need scikit-learn, which is not installed$"
    ) as caught:
        load_digits_split()
    assert caught.value.hint == 'pip install "onnxq[demo]"'


def test_the_model_is_beside_the_code() -> None:
    assert DIGITS_MODEL.is_file()
