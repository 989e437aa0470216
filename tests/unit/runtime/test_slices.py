"""What an output hides: channels and columns that died beside others, and what is no reason for an alarm."""

import numpy as np
import pytest

from onnxq.runtime.batch import Array
from onnxq.runtime.compare import FloatComparison
from onnxq.runtime.slices import LostSlices


def lost(reference: Array, candidate: Array, batches: int = 4) -> LostSlices | None:
    comparison = FloatComparison("y")
    for first, second in zip(
        np.array_split(reference, batches), np.array_split(candidate, batches), strict=True
    ):
        comparison.update(first, second, None, samples=len(first))
    return comparison.result().lost


def on_a_grid(values: Array, step: float) -> Array:
    return np.round(values / step) * step


def boxes_and_scores(rng: np.random.Generator, share: float = 1.0) -> Array:
    """Return (64, 24, 32): four rows of pixels up to 320, twenty of scores; a ``share`` is not 0."""
    boxes = rng.uniform(0, 320, (64, 4, 32))
    scores = rng.uniform(0.1, 0.6, (64, 20, 32)) * (rng.random((64, 20, 32)) < share)
    return np.concatenate([boxes, scores], axis=1)


@pytest.mark.parametrize("share", [1.0, 0.05])
def test_scores_that_vanish_beside_boxes_are_found(share: float) -> None:
    """A step of 320 / 255 rounds every score to 0; the boxes' own error is the half step that is due."""
    y = boxes_and_scores(np.random.default_rng(0), share)
    found = lost(y, on_a_grid(y, 320 / 255))
    assert found is not None
    assert (found.axis, found.length, found.lost) == (1, 24, 20)
    assert found.sqnr_db == pytest.approx(0, abs=1e-9)  # all of the signal is error
    last = lost(y.transpose(0, 2, 1), on_a_grid(y, 320 / 255).transpose(0, 2, 1))
    assert last is not None
    assert (last.axis, last.length, last.lost) == (2, 24, 20)


def test_the_worst_slice_is_named_whatever_the_batches() -> None:
    rng = np.random.default_rng(1)
    y = rng.normal(size=(64, 8))
    candidate = y + rng.normal(size=y.shape) * 1e-3
    candidate[:, 5] = y[:, 5] + 2 * rng.normal(size=64)  # error power 4, signal power 1: -6 dB
    found = [lost(y, candidate, batches) for batches in (1, 7)]
    for one in found:
        assert one is not None
        assert (one.axis, one.length, one.lost, one.index) == (1, 8, 1, 5)
        assert one.sqnr_db == pytest.approx(
            10 * np.log10((y[:, 5] ** 2).sum() / ((candidate - y)[:, 5] ** 2).sum())
        )


def test_probabilities_are_judged_together() -> None:
    """Most classes never come near the top; that theirs is off by half of next to nothing moves no answer."""
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(256, 100)) * 3
    first, second = (
        np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
        for x in (logits, logits + rng.normal(size=logits.shape) / 8)
    )
    assert lost(first, second) is None


def test_a_class_that_never_fires_is_no_loss() -> None:
    rng = np.random.default_rng(3)
    y = rng.uniform(0, 0.9, (64, 5, 16))
    y[:, 3] *= 1e-3
    assert lost(y, on_a_grid(y, 1 / 255)) is None


def test_a_dead_channel_is_no_loss() -> None:
    rng = np.random.default_rng(4)
    y = rng.normal(size=(32, 16, 4, 4))
    y[:, 7] *= 1e-5
    assert lost(y, on_a_grid(y, 8 / 255)) is None


def test_a_few_spikes_are_no_evidence() -> None:
    rng = np.random.default_rng(5)
    y = rng.normal(size=(64, 4, 8))
    y[:, 2] = 0
    y[:4, 2, 0] = 1
    candidate = y.copy()
    candidate[:4, 2, 0] = 0
    assert lost(y, candidate) is None


def test_few_samples_are_no_evidence() -> None:
    """One sample of many columns: some are near 0 by chance, and an even error is large beside those."""
    rng = np.random.default_rng(6)
    y = rng.normal(size=(1, 1000))
    assert lost(y, y + rng.normal(size=y.shape) / 30, batches=1) is None


def test_an_even_error_is_told_of_the_whole_alone() -> None:
    rng = np.random.default_rng(7)
    y = rng.normal(size=(64, 16))
    assert lost(y, y + rng.normal(size=y.shape)) is None


def test_an_axis_of_changing_length_is_given_up() -> None:
    rng = np.random.default_rng(8)
    comparison = FloatComparison("y")
    for length in (8, 9):
        y = rng.normal(size=(32, length, 1))
        candidate = y.copy()
        candidate[:, 3] = 0
        comparison.update(y, candidate, None, samples=32)
    assert comparison.result().lost is None
