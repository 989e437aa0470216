"""Narrow float types: what they hold is rounded by at most half an eps, and masks stay masks."""

import numpy as np
import pytest

from onnxq.quant.narrow import narrow_float

TYPES = ["float16", "bfloat16"]


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("seed", range(10))
def test_what_is_held_is_rounded_by_half_an_eps(name: str, seed: int) -> None:
    kind = narrow_float(name)
    rng = np.random.default_rng(seed)
    array = rng.normal(size=1000) * 10.0 ** rng.uniform(-3, 3)
    assert kind.holds_array(array)
    error = np.abs(kind.rounded(array).astype(np.float64) - array)
    # Half an eps of each value, or of the smallest normal number where a value lies below it.
    assert (error <= kind.eps / 2 * np.maximum(np.abs(array), kind.smallest)).all()


@pytest.mark.parametrize("name", TYPES)
def test_the_limits_are_the_type_s_own(name: str) -> None:
    kind = narrow_float(name)
    edge = kind.rounded(np.array([kind.largest, -kind.largest, kind.smallest, 1 + kind.eps]))
    assert edge.astype(np.float64).tolist() == [kind.largest, -kind.largest, kind.smallest, 1 + kind.eps]
    assert np.isinf(kind.rounded(np.array(kind.largest * (1 + kind.eps))).astype(np.float64))


def test_float16_refuses_what_overflows_or_vanishes() -> None:
    kind = narrow_float("float16")
    assert kind.holds(-3, 5)
    assert kind.holds(0, 0)
    assert not kind.holds(-40000, 1)
    assert kind.holds(-40000, 1, headroom=1)
    assert not kind.holds(0, 1e-5)
    assert not kind.holds_array(np.array([1e-12]))
    assert not kind.holds_array(np.array([1, 7e4]))
    assert kind.holds_array(np.array([0.0, -np.inf, 1]))


def test_bfloat16_has_the_range_of_float32() -> None:
    kind = narrow_float("bfloat16")
    assert kind.holds(-1e38, 1e-12)
    assert kind.holds_array(np.array([1e-12], np.float32))


@pytest.mark.parametrize("name", TYPES)
def test_a_clipped_mask_hides_what_it_masks_and_stays_finite(name: str) -> None:
    kind = narrow_float(name)
    mask = kind.rounded(kind.clipped(np.array([0, np.finfo(np.float32).min, -np.inf, -1e9])))
    scores = mask.astype(np.float64) + kind.largest / 4
    assert np.isfinite(scores.astype(kind.dtype).astype(np.float64)).all()
    assert (np.exp(scores - scores.max())[[1, 2]] == 0).all()
