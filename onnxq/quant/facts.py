"""Facts: what calibration has measured about one value of a graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxq.quant.histogram import Histogram

Part = TypeVar("Part", "Facts", "ChannelFacts")


class Stat(Enum):
    """A statistic that a pass may ask for; the text is its name in tables and options."""

    RANGE = "range"
    """Smallest and largest value."""
    AVERAGE = "average"
    """Moving average, over the samples, of the smallest and the largest value of each sample."""
    CHANNEL_RANGE = "channel-range"
    """Smallest and largest value of each channel."""
    MEAN = "mean"
    """The mean of each channel."""
    HISTOGRAM = "histogram"
    """How many values fall into each bin."""
    ROWS = "rows"
    """A bounded, seeded sample of whole rows: vectors along the channel axis."""
    GRAM = "gram"
    """Products of channels, summed over all rows. Calibration tables leave them out: they are large."""


BY_CHANNEL = frozenset({Stat.CHANNEL_RANGE, Stat.MEAN, Stat.ROWS, Stat.GRAM})
"""The statistics that depend on which axis counts the channels."""


@dataclass(frozen=True)
class Need:
    """A pass's wish to know something about one value.

    Args:
        value: The value's name.
        stats: What to measure.
        axis: The channel axis for the statistics ``BY_CHANNEL``, counted from the end: negative, so that one
            axis has one number. The others do not depend on it.

    Raises:
        ValueError: ``axis`` is not negative.

    """

    value: str
    stats: frozenset[Stat]
    axis: int = -1

    def __post_init__(self) -> None:
        """Check the axis."""
        if self.axis >= 0:
            raise ValueError(f"channel axis {self.axis} of {self.value!r}: count it from the end, as -1")


@dataclass(frozen=True, eq=False)
class ChannelFacts:
    """What is known about a value along one channel axis; a part that was not asked for is None.

    Args:
        low: Shape (C,); smallest value of each channel.
        high: Shape (C,); largest value of each channel.
        mean: Shape (C,); mean of each channel.
        rows: Shape (R, C); sampled rows.
        gram: Shape (C, C); ``x.T @ x`` over all rows ``x``.

    """

    low: NDArray[np.float32] | None = None
    high: NDArray[np.float32] | None = None
    mean: NDArray[np.float32] | None = None
    rows: NDArray[np.float32] | None = None
    gram: NDArray[np.float32] | None = None

    def and_also(self, newer: ChannelFacts) -> ChannelFacts:
        """Return ``newer`` with the parts that only ``self`` has."""
        return _filled_up(newer, self)


@dataclass(frozen=True, eq=False)
class Facts:
    """What is known about one value; a part that was not asked for is None.

    Args:
        count: How many elements were seen, padding left out.
        low: Smallest value, which may be infinite; infinity if none was seen.
        high: Largest value, likewise.
        average: Moving average of (smallest, largest) over the samples.
        histogram: Counts over the whole tensor.
        channels: What is known along each channel axis; axes count from the end.

    """

    count: int
    low: float
    high: float
    average: tuple[float, float] | None = None
    histogram: Histogram | None = None
    channels: Mapping[int, ChannelFacts] = field(default_factory=dict)

    def along(self, axis: int) -> ChannelFacts:
        """Return what is known along a channel axis, counted from the end; nothing is no error."""
        return self.channels.get(axis, ChannelFacts())

    def has(self, stats: Iterable[Stat], axis: int = -1) -> bool:
        """Tell whether all of ``stats`` were measured, along ``axis``, or there was nothing to measure."""
        along = self.along(axis)
        parts: dict[Stat, Any] = {
            Stat.RANGE: self.low,
            Stat.AVERAGE: self.average,
            Stat.HISTOGRAM: self.histogram,
            Stat.CHANNEL_RANGE: along.low,
            Stat.MEAN: along.mean,
            Stat.ROWS: along.rows,
            Stat.GRAM: along.gram,
        }
        return self.count == 0 or all(parts[stat] is not None for stat in stats)

    def and_also(self, newer: Facts) -> Facts:
        """Return ``newer`` of the same value, with the parts that only ``self`` has."""
        both = self.channels.keys() & newer.channels.keys()
        joint = {axis: self.channels[axis].and_also(newer.channels[axis]) for axis in both}
        return replace(_filled_up(newer, self), channels={**self.channels, **newer.channels, **joint})

    def rescaled(self, scale: NDArray[Any], shift: NDArray[Any], axis: int | None) -> Facts | None:
        """Return the facts of ``(x - shift) / scale``, as far as those of ``x`` tell them exactly.

        The whole range follows from the ranges of the channels; what depends on all values, such as the
        histogram, is unknown again, and so are channels along other axes.

        Args:
            scale: Shape (C,), > 0.
            shift: Shape (C,).
            axis: The axis of ``x`` that both lie along, counted from the end; None if the channels lie along
                several axes.

        Returns:
            None if nothing is known exactly.

        """
        if self.count == 0:
            return self
        known = ChannelFacts() if axis is None else self.along(axis)
        if axis is None or known.low is None or known.high is None:
            return None

        def moved(values: NDArray[np.float32]) -> NDArray[np.float32]:
            result: NDArray[np.float32] = ((values.astype(np.float64) - shift) / scale).astype(np.float32)
            return result

        low, high = moved(known.low), moved(known.high)
        rows, mean = (None if part is None else moved(part) for part in (known.rows, known.mean))
        along = ChannelFacts(low, high, mean, rows)
        return Facts(self.count, float(low.min()), float(high.max()), channels={axis: along})


def meets(facts: Mapping[str, Facts], need: Need) -> bool:
    """Tell whether ``facts``, by value, hold all that ``need`` asks for."""
    found = facts.get(need.value)
    return found is not None and found.has(need.stats, need.axis)


def joined(known: Mapping[str, Facts], newer: Mapping[str, Facts]) -> dict[str, Facts]:
    """Return what both tell of each value; what was measured later counts."""
    both = {name: known[name].and_also(facts) for name, facts in newer.items() if name in known}
    return {**known, **newer, **both}


def _filled_up(newer: Part, older: Part) -> Part:
    """Return ``newer`` with the fields that are None there taken from ``older``."""
    lacking = [f.name for f in fields(newer) if getattr(newer, f.name) is None]
    return replace(newer, **{name: getattr(older, name) for name in lacking})
