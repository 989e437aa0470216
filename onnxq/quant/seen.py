"""What a histogram says of an encoding: how much it cuts off, how much noise it makes; and a picture."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from onnxq.quant.encodings import Encoding
from onnxq.quant.statistics import Histogram


def clipped_share(histogram: Histogram, encoding: Encoding) -> float:
    """Return the share of counted values, 0 to 1, outside of the grid of a per-tensor ``encoding``."""
    low, high, counts = histogram.ordered()
    outside = (high <= float(encoding.low)) | (low >= float(encoding.high))
    return float(counts[outside].sum() / max(counts.sum(), 1))


def expected_sqnr_db(histogram: Histogram, encoding: Encoding) -> float:
    """Return signal to noise in decibels if the counted values are quantized, per tensor.

    Each bin counts as its middle, which is right to 1/256 of the value, and those beside zero as zero.
    Infinite if there is no noise.
    """
    low, high, counts = histogram.ordered()
    points = np.where((low == 0) | (high == 0), 0, (low + high) / 2).astype(np.float32)
    noise = (encoding.restored(points) - points).astype(np.float64) ** 2 @ counts
    signal = points.astype(np.float64) ** 2 @ counts
    return 10 * math.log10(signal / noise) if noise > 0 and signal > 0 else math.inf


def picture(histogram: Histogram, count: int = 96) -> tuple[list[float], list[float]]:
    """Return the ``count + 1`` edges and ``count`` heights of a histogram with bars of one width.

    A bin that lies in two bars is divided between them by width.
    """
    low, high, counts = histogram.ordered()
    if not counts.size:
        return [], []
    edges = np.linspace(low[0], high[-1], count + 1)
    after = counts.cumsum().astype(np.float64)
    ends = np.stack([low, high], axis=1).reshape(-1)
    cumulated = np.stack([after - counts, after], axis=1).reshape(-1)
    heights = np.diff(np.interp(edges, ends, cumulated))
    return [float(f"{edge:.6g}") for edge in edges], [round(float(height), 2) for height in heights]


def outlier_ratio(low: NDArray[np.floating], high: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return by how much each channel's largest magnitude is above the median channel's.

    Args:
        low: Shape (C,); smallest value of each channel.
        high: Shape (C,); largest value of each channel.

    """
    largest = np.maximum(np.abs(low), np.abs(high)).astype(np.float64)
    return np.asarray(largest / max(float(np.median(largest)), float(np.finfo(np.float32).tiny)))
