"""Moving outliers from activations to weights: which scale and which shift each channel shall get.

All of it is arithmetic on one fold site: the channels ``x`` of an activation become ``(x - shift) / scale``,
and the weights that read them are multiplied by ``scale``. The best choice is the one whose layers' outputs
are closest to the exact ones after both sides were quantized as the encoding passes quantize them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.quant.encodings import affine_encoding, limit_of_bits, symmetric_encoding

Floats = NDArray[np.floating[Any]]
Doubles = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sample:
    """What linear layers read, as far as calibration saw it, and their weights.

    Args:
        rows: Shape (R, C); sampled rows of the activation.
        low: Shape (C,); the smallest value of each channel over all data.
        high: Shape (C,); the largest one.
        weights: Shape (C, N) each, with an N for each layer.
        bits: What both sides will be quantized to, 2 to 8.

    """

    rows: Floats
    low: Floats
    high: Floats
    weights: Sequence[Floats]
    bits: int = 8

    @property
    def largest(self) -> Doubles:
        """The largest magnitude of each channel, shape (C,)."""
        return _doubles(np.maximum(np.abs(self.low), np.abs(self.high)))

    @property
    def largest_weight(self) -> Doubles:
        """The largest magnitude of the weights that meet each channel, shape (C,)."""
        by_layer = [np.abs(weight).max(axis=1, initial=0) for weight in self.weights]
        return _doubles(np.max(by_layer, axis=0))

    @cached_property
    def _exact(self) -> list[Floats]:
        return [self.rows @ weight for weight in self.weights]

    def error(self, scale: Doubles, shift: Doubles | None = None) -> float:
        """Return the squared error of the layers' outputs relative to their size, with both sides quantized.

        The activation gets one unsigned scale that covers all channels, each output channel of a weight a
        signed scale of its own. The sum runs over all layers and rows.

        Args:
            scale: Shape (C,), > 0.
            shift: Shape (C,).

        """
        moved = np.zeros_like(scale) if shift is None else shift
        low, high = (self.low - moved) / scale, (self.high - moved) / scale
        least, most = low.min(initial=0), high.max(initial=0)
        step = affine_encoding(least, most, limit=limit_of_bits("uint8", self.bits)).scale
        rows = _rounded(((self.rows - moved) / scale).astype(np.float32), step)
        error = size = 0.0
        for weight, exact in zip(self.weights, self._exact, strict=True):
            wider = weight * scale.astype(np.float32)[:, None]
            largest = np.abs(wider).max(axis=0, initial=0)
            steps = symmetric_encoding(largest, axis=1, limit=limit_of_bits("int8", self.bits)).scale
            outputs = rows @ _rounded(wider, steps) + (moved @ weight).astype(np.float32)
            error += float(np.square(outputs - exact).sum())
            size += float(np.square(exact).sum())
        return error / size if size else 0.0


@dataclass(frozen=True, eq=False)
class Choice:
    """What was chosen for one site.

    Args:
        scale: Shape (C,).
        shift: Shape (C,), or None.
        label: What was chosen, for the record.
        error: The error with it, relative; see ``Sample.error``.
        before: The error without.

    """

    scale: Doubles
    shift: Doubles | None
    label: str
    error: float
    before: float

    @property
    def gain(self) -> float:
        """How much smaller the error got, in decibels."""
        tiny = np.finfo(np.float64).tiny
        return float(10 * np.log10(max(self.before, tiny) / max(self.error, tiny)))


Candidate = tuple[str, Doubles, Doubles | None]
"""What it is called, its scale and its shift."""


def best_of(samples: Sequence[Sample], candidates: Iterable[Candidate]) -> Choice | None:
    """Return the candidate with the smallest error, summed over samples; None if none beats leaving it."""

    def total(scale: Doubles, shift: Doubles | None) -> float:
        return sum(sample.error(scale, shift) for sample in samples)

    before = total(np.ones(samples[0].low.size), None)
    choices = [Choice(scale, shift, label, total(scale, shift), before) for label, scale, shift in candidates]
    best = min(choices, key=lambda choice: choice.error, default=None)
    return best if best is not None and best.error < before else None


def joint_range(samples: Sequence[Sample]) -> tuple[Doubles, Doubles]:
    """Return the smallest and the largest value of each channel over all samples, shape (C,) each."""
    low = np.min([sample.low for sample in samples], axis=0)
    high = np.max([sample.high for sample in samples], axis=0)
    return _doubles(low), _doubles(high)


def smoothing_scale(largest: Doubles, largest_weight: Doubles, alpha: float) -> Doubles:
    """Return ``s_j = max|X_j|^alpha / max|W_j|^(1 - alpha)``, divided by its geometric mean.

    Channels that are zero on either side keep the scale 1.

    Args:
        largest: Shape (C,); the largest magnitude of each channel.
        largest_weight: Shape (C,); that of the weights that meet it.
        alpha: From 0, all difficulty to the activation, to 1, all to the weights.

    Source:
        Xiao et al., 2022, arXiv:2211.10438 (SmoothQuant), equation 4.

    """
    alive = (largest > 0) & (largest_weight > 0)
    logs = alpha * _log(largest, alive) - (1 - alpha) * _log(largest_weight, alive)
    mean = logs[alive].mean() if alive.any() else 0.0
    return np.where(alive, np.exp(logs - mean), 1.0)


def smoothings(samples: Sequence[Sample], alphas: Iterable[float]) -> Iterable[Candidate]:
    """Yield SmoothQuant's scale for each alpha; channels are measured over all samples together."""
    largest = np.max([sample.largest for sample in samples], axis=0)
    weights = np.max([sample.largest_weight for sample in samples], axis=0)
    for alpha in alphas:
        yield f"alpha {alpha:.2f}", smoothing_scale(largest, weights, alpha), None


def threshold_scale(largest: Doubles, threshold: float) -> Doubles:
    """Return ``s_j = max(1, max|X_j| / threshold)``: channels beyond the threshold shrink to it.

    Source:
        Wei et al., 2023, arXiv:2304.09145 (Outlier Suppression+), section 4.2.

    """
    return np.maximum(1.0, largest / threshold)


def thresholds(samples: Sequence[Sample], steps: int, *, shift: bool) -> Iterable[Candidate]:
    """Yield the scales of thresholds from the largest channel down to the median one.

    Args:
        samples: What the layers read.
        steps: How many thresholds there are, in equal ratios.
        shift: Whether each channel is centred first.

    """
    low, high = joint_range(samples)
    centre = (low + high) / 2 if shift else np.zeros_like(low)
    largest = np.maximum(high - centre, centre - low)
    most, middle = largest.max(initial=0), float(np.median(largest))
    if middle <= 0:
        return
    for threshold in np.geomspace(most, middle, steps):
        yield (
            f"threshold {threshold:.3g}",
            threshold_scale(largest, float(threshold)),
            centre if shift else None,
        )


def _rounded(values: NDArray[np.float32], step: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what an encoding restores of values that it covers; whole zero points change no rounding."""
    rounded: NDArray[np.float32] = np.rint(values / step) * step
    return rounded


def _doubles(values: Floats) -> Doubles:
    return np.asarray(values, np.float64)


def _log(values: Doubles, alive: NDArray[np.bool_]) -> Doubles:
    return np.log(np.where(alive, values, 1.0))
