"""Images that differ each time they are drawn."""

from __future__ import annotations

import numpy as np
import pytest

from onnxq.training.augmentation import Varied
from onnxq.training.pool import Part, Pool

IMAGES = np.arange(8 * 2 * 5 * 5, dtype=np.float32).reshape(8, 2, 5, 5) + 1
PART = Part({"x": IMAGES, "target": IMAGES.sum((1, 2, 3)), "mask": np.ones((8, 3))}, 8)


def _varied(*, flip: bool = False, shift: int = 0, again: bool = False) -> Varied:
    def sums(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
        return {"target": feeds["x"].sum((1, 2, 3))}

    return Varied(Pool([PART], 8, seed=3), flip, shift, ["target"], sums if again else None)  # type: ignore[arg-type]


def test_images_are_mirrored_each_by_its_own_chance() -> None:
    varied = _varied(flip=True)
    for step in range(3):
        before, after = varied.pool.drawn(step).arrays["x"], varied.drawn(step).arrays["x"]
        same = (before == after).all((1, 2, 3))
        np.testing.assert_array_equal(after[~same], before[~same][..., ::-1])
        np.testing.assert_array_equal(varied.drawn(step).arrays["x"], after)
    assert 0 < same.sum() < len(same)


@pytest.mark.parametrize("shift", [1, 2])
def test_images_move_by_so_many_pixels(shift: int) -> None:
    varied = _varied(shift=shift)
    before, after = varied.pool.drawn(0).arrays["x"], varied.drawn(0).arrays["x"]
    for old, new in zip(before, after, strict=True):
        wide = np.pad(old, [(0, 0), (shift, shift), (shift, shift)])
        places = [
            (down, right)
            for down in range(2 * shift + 1)
            for right in range(2 * shift + 1)
            if np.array_equal(wide[:, down : down + 5, right : right + 5], new)
        ]
        assert len(places) == 1
    assert not np.array_equal(before, after)


def test_targets_stay_unless_they_are_computed_anew() -> None:
    plain, anew = _varied(shift=2), _varied(shift=2, again=True)
    before, found = plain.drawn(0).arrays, anew.drawn(0).arrays
    np.testing.assert_array_equal(before["target"], plain.pool.drawn(0).arrays["target"])
    np.testing.assert_array_equal(found["target"], found["x"].sum((1, 2, 3)))
    assert (found["target"] < before["target"]).any()  # something went over the edge
