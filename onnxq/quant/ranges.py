"""Range setting: from what was measured of a tensor to the range that its encoding shall cover.

A method looks at ``Facts`` and returns the smallest and the largest real value to represent, per tensor or
per channel. ``range_method("mse").stats`` tells what to measure for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from onnxq.errors import RecipeError, did_you_mean
from onnxq.quant.clipping import (
    BRIEF,
    FINE,
    QUICK,
    ExpectedSquaredError,
    divergence,
    products_error,
    search_range,
    softmax_cross_entropy,
    squared_error,
)
from onnxq.quant.encodings import Encoding, covering, family_of
from onnxq.quant.facts import Facts, Kind, facts_of
from onnxq.quant.statistics import Average, ChannelRange, CurvedHistogram, Histogram, Range, Rows

Values = NDArray[np.float32]
Ends = tuple[float, float]
PIECE = 1 << 22
"""Bytes of a matrix whose blocks are encoded at a time."""

DAMPING = 0.1
"""The part of the mean square that is added to each input's own. Few samples say little of inputs that matter
rarely, and their weights would be cut off for nothing: on 32 digits, those of a vision transformer in 6 bits
lost 4.5 dB without it."""

ChannelEnds = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class Method(ABC):
    """A way to set ranges; its fields are its options."""

    name: ClassVar[str]
    stats: ClassVar[frozenset[Kind]]
    """What ``choose`` needs."""
    channel_stats: ClassVar[frozenset[Kind]] = frozenset()
    """What ``choose_channels`` needs; empty: the method is for whole tensors only."""
    compares_grids: ClassVar[bool] = True
    """Whether it looks at what the integers would make of the values."""

    @abstractmethod
    def choose(
        self, facts: Facts, dtype: str = "uint8", symmetric: bool = False, limit: int | None = None
    ) -> Ends:
        """Return the range of a whole tensor.

        Args:
            facts: Has ``stats``.
            dtype: The integer type to be used; a key of ``DTYPES``.
            symmetric: Whether the encoding will be symmetric around zero.
            limit: The largest magnitude of its integers, if not the type's.

        """

    def choose_channels(
        self, facts: Facts, axis: int = -1, dtype: str = "int8", symmetric: bool = True
    ) -> ChannelEnds:
        """Return the ranges of all channels from sampled rows, two arrays of shape (C,).

        Args:
            facts: Has ``channel_stats``.
            axis: The channel axis, counted from the end.
            dtype: The integer type to be used; a key of ``DTYPES``.
            symmetric: Whether the encodings will be symmetric around zero.

        Raises:
            RecipeError: The method has no form per channel.

        """
        rows = facts.known(Rows, axis).values
        return self.choose_rows(np.ascontiguousarray(rows.T), dtype, symmetric)

    def choose_rows(
        self, values: Values, dtype: str = "int8", symmetric: bool = True, limit: int | None = None
    ) -> ChannelEnds:
        """Return the ranges of channels whose values are all at hand, as a weight's are.

        Args:
            values: Shape (C, N), float32; one row for each channel.
            dtype: The integer type to be used; a key of ``DTYPES``.
            symmetric: Whether the encodings will be symmetric around zero.
            limit: The largest magnitude of their integers, if not the type's.

        Raises:
            RecipeError: The method has no form per channel.

        """
        raise RecipeError(
            f"range method {self.name!r} is for whole tensors only",
            hint=f"per channel: {', '.join(sorted(m.name for m in METHODS.values() if m.channel_stats))}",
        )

    def choose_blocks(self, blocks: Values, dtype: str = "int8", symmetric: bool = True) -> ChannelEnds:
        """Return the ranges of blocks that lie one below the other, two arrays of shape (B, N).

        Args:
            blocks: Shape (B, size, N), float32.
            dtype: The integer type to be used; a key of ``DTYPES``.
            symmetric: Whether their encodings will be symmetric around zero.

        Raises:
            RecipeError: The method has no form per channel.

        """
        rows = blocks.transpose(0, 2, 1)
        low, high = self.choose_rows(rows.reshape(-1, blocks.shape[1]), dtype, symmetric)
        return low.reshape(rows.shape[:2]), high.reshape(rows.shape[:2])


class MinMax(Method):
    """Everything that was seen."""

    name = "min-max"
    compares_grids = False
    stats = frozenset({Range})
    channel_stats = frozenset({ChannelRange})

    def choose(
        self, facts: Facts, dtype: str = "uint8", symmetric: bool = False, limit: int | None = None
    ) -> Ends:
        """Return the smallest and the largest value."""
        return facts.low, facts.high

    def choose_channels(
        self, facts: Facts, axis: int = -1, dtype: str = "int8", symmetric: bool = True
    ) -> ChannelEnds:
        """Return the smallest and the largest value of each channel."""
        known = facts.known(ChannelRange, axis)
        return known.low.astype(np.float64), known.high.astype(np.float64)

    def choose_rows(
        self, values: Values, dtype: str = "int8", symmetric: bool = True, limit: int | None = None
    ) -> ChannelEnds:
        """Return the smallest and the largest value of each row."""
        return values.min(axis=1).astype(np.float64), values.max(axis=1).astype(np.float64)

    def choose_blocks(self, blocks: Values, dtype: str = "int8", symmetric: bool = True) -> ChannelEnds:
        """Return the smallest and the largest value of each block, as they lie."""
        return blocks.min(axis=1).astype(np.float64), blocks.max(axis=1).astype(np.float64)


class MovingAverage(Method):
    """The moving average, over the samples, of each sample's smallest and largest value."""

    name = "moving-average"
    compares_grids = False
    stats = frozenset({Average})

    def choose(
        self, facts: Facts, dtype: str = "uint8", symmetric: bool = False, limit: int | None = None
    ) -> Ends:
        """Return both averages."""
        average = facts.known(Average)
        return average.low, average.high


@dataclass(frozen=True)
class Percentile(Method):
    """All but the outermost values, the same share at either end.

    Args:
        percent: The share of values, in percent, that does not lie beyond an end: more than 50, at most 100.

    Raises:
        RecipeError: ``percent`` is out of bounds.

    """

    name = "percentile"
    compares_grids = False
    stats = frozenset({Histogram})
    channel_stats = frozenset({Rows})
    percent: float = 99.99

    def __post_init__(self) -> None:
        """Check the percentage."""
        if not 50 < self.percent <= 100:
            raise RecipeError(f"percentile {self.percent} is not above 50 and at most 100", hint="try 99.99")

    def choose(
        self, facts: Facts, dtype: str = "uint8", symmetric: bool = False, limit: int | None = None
    ) -> Ends:
        """Return two quantiles, each exact up to a bin's width: 1/128 of its value."""
        histogram = facts.known(Histogram)
        share = self.percent / 100
        return max(histogram.quantile(1 - share), facts.low), min(histogram.quantile(share), facts.high)

    def choose_rows(
        self, values: Values, dtype: str = "int8", symmetric: bool = True, limit: int | None = None
    ) -> ChannelEnds:
        """Return two quantiles of each row."""
        share = self.percent / 100
        low, high = np.quantile(values.astype(np.float64), [1 - share, share], axis=1)
        return low, high


class Mse(Method):
    """The range of the smallest squared quantization error.

    Source:
        Nagel et al., 2021, arXiv:2106.08295, section 3.1.

    """

    name = "mse"
    stats = frozenset({Histogram})
    channel_stats = frozenset({Rows})

    def choose(
        self, facts: Facts, dtype: str = "uint8", symmetric: bool = False, limit: int | None = None
    ) -> Ends:
        """Search with the error that the histogram lets expect."""
        histogram = facts.known(Histogram)
        cost = ExpectedSquaredError(histogram, facts.low, facts.high, dtype, symmetric, limit)
        low, high = search_range(cost, facts.low, facts.high, symmetric, FINE)
        return float(low), float(high)

    def choose_rows(
        self, values: Values, dtype: str = "int8", symmetric: bool = True, limit: int | None = None
    ) -> ChannelEnds:
        """Search with the error of the values themselves, all channels at once."""
        cost = squared_error(values, dtype, symmetric, limit)
        return search_range(cost, values.min(axis=1), values.max(axis=1), symmetric, QUICK)


class Entropy(Method):
    """The range that keeps most of the distribution's information; see ``divergence``."""

    name = "entropy"
    stats = frozenset({Histogram})
    channel_stats = frozenset({Rows})

    def choose(
        self, facts: Facts, dtype: str = "uint8", symmetric: bool = False, limit: int | None = None
    ) -> Ends:
        """Search among clipped ranges."""
        histogram = facts.known(Histogram)
        cost = divergence(histogram, dtype, limit)
        low, high = search_range(cost, facts.low, facts.high, symmetric, FINE)
        return float(low), float(high)

    def choose_rows(
        self, values: Values, dtype: str = "int8", symmetric: bool = True, limit: int | None = None
    ) -> ChannelEnds:
        """Clip every row by the same share of its own largest magnitude.

        A row has too few values to compare distributions in 2048 bins. So the rows are divided by their
        largest magnitudes, and the range is searched for all of them together.
        """
        largest = np.abs(values).max(axis=1).astype(np.float64)
        shape = (values / np.where(largest > 0, largest, 1)[:, np.newaxis]).astype(np.float32)
        whole = Range(float(shape.min()), float(shape.max()))
        facts = facts_of(shape.size, whole, Histogram.of(shape))
        low, high = self.choose(facts, dtype, symmetric, limit)
        return np.maximum(low * largest, values.min(axis=1)), np.minimum(high * largest, values.max(axis=1))


class CrossEntropy(Method):
    """For logits: the range that changes the softmax over the last axis least."""

    name = "cross-entropy"
    stats = frozenset({Rows})

    def choose(
        self, facts: Facts, dtype: str = "uint8", symmetric: bool = False, limit: int | None = None
    ) -> Ends:
        """Search with the cross-entropy of the sampled rows."""
        cost = softmax_cross_entropy(facts.known(Rows).values, dtype, symmetric, limit)
        low, high = search_range(cost, facts.low, facts.high, symmetric, QUICK)
        return float(low), float(high)


class Hessian(Method):
    """The range of the smallest rise of the loss, to second order: squared errors times squared gradients.

    Source:
        Yuan et al., 2022, arXiv:2111.12293 (PTQ4ViT), section 3.3; the gradients are drawn, as
        ``onnxq.autodiff.seeds`` tells: those of the reference code, of how far a model is from itself, are 0.

    """

    name = "hessian"
    stats = frozenset({CurvedHistogram})

    def choose(
        self, facts: Facts, dtype: str = "uint8", symmetric: bool = False, limit: int | None = None
    ) -> Ends:
        """Search with the error that the histogram lets expect."""
        histogram = facts.known(CurvedHistogram)
        cost = ExpectedSquaredError(histogram, facts.low, facts.high, dtype, symmetric, limit)
        low, high = search_range(cost, facts.low, facts.high, symmetric, FINE)
        return float(low), float(high)


def hessian_range(
    rows: Values, gram: Values, dtype: str, *, whole: bool, limit: int | None = None
) -> ChannelEnds:
    """Return the ranges of a weight with which the loss rises least, two arrays of shape (N,), or (1,).

    Args:
        rows: One row for each output channel, shape (N, C).
        gram: The products of what the layer reads, weighed by the loss, shape (C, C).
        dtype: The integer type to be used; the encodings will be symmetric around zero.
        whole: Whether there is one range for all channels.
        limit: The largest magnitude of their integers, if not the type's.

    Source:
        Yuan et al., 2022, arXiv:2111.12293 (PTQ4ViT), section 3.3, with one weight for each row of inputs.

    """
    axis, squares = None if whole else 1, np.diagonal(gram)
    damped = gram + np.diag(np.full_like(squares, DAMPING * squares.mean()))
    low, high = search_range(
        products_error(rows, damped, dtype, limit), rows.min(axis), rows.max(axis), True, BRIEF
    )
    return np.atleast_1d(low), np.atleast_1d(high)


METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (MinMax(), MovingAverage(), Percentile(), Mse(), Entropy(), CrossEntropy(), Hessian())
}
"""Every method by name, with its default options."""


def range_method(name: str, dtype: str = "uint8") -> Method:
    """Return the method of this name.

    Raises:
        RecipeError: There is none, or it is not for ``dtype``.

    """
    if name not in METHODS:
        raise RecipeError(f"there is no range method {name!r}", hint=did_you_mean(name, METHODS))
    if METHODS[name].compares_grids and not family_of(dtype).integers:
        others = [method.name for method in METHODS.values() if not method.compares_grids]
        hint = f"choose from: {', '.join(others)}"
        raise RecipeError(f"range method {name!r} is for integers and not for {dtype}", hint=hint)
    return METHODS[name]


def block_ranges(
    method: Method, values: Values, dtype: str, block_size: int, *, symmetric: bool = False
) -> ChannelEnds:
    """Return the range of each block of a column, two arrays of shape (ceil(C / block_size), N).

    Args:
        method: One that has a form per channel.
        values: Shape (C, N), float32.
        dtype: The integer type to be used; a key of ``DTYPES``.
        block_size: The length of a block; the last may be shorter.
        symmetric: Whether the encoding will be symmetric around zero.

    """
    if len(values) % block_size:
        values = np.pad(values, ((0, -len(values) % block_size), (0, 0)))  # zero is on every grid
    return method.choose_blocks(values.reshape(-1, block_size, values.shape[1]), dtype, symmetric)


def encode_blocks(
    method: Method, values: Values, dtype: str, block_size: int, *, symmetric: bool = False
) -> Encoding:
    """Return the encoding of a matrix in blocks of its columns, with ranges as ``block_ranges`` sets them.

    It is computed for some rows of blocks at a time, so that what lies in between stays in a cache.
    """
    step = max(PIECE // max(values[:block_size].nbytes, 1), 1) * block_size
    parts = []
    for start in range(0, len(values), step):
        rows = values[start : start + step]
        low, high = block_ranges(method, rows, dtype, block_size, symmetric=symmetric)
        parts.append(covering(low, high, dtype, symmetric=symmetric, axis=0, block_size=block_size))
    scale, zero_point = ([getattr(part, name) for part in parts] for name in ("scale", "zero_point"))
    return replace(parts[0], scale=np.concatenate(scale), zero_point=np.concatenate(zero_point))
