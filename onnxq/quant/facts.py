"""Facts: what calibration has measured about one value of a graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.quant.histogram import Histogram


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


WHOLE_PARTS = ("average", "histogram")
CHANNEL_PARTS = ("channel_low", "channel_high", "rows", "mean", "gram")
"""The parts of ``Facts`` that may be lacking: of the value as a whole, and along its channel axis."""


@dataclass(frozen=True)
class Need:
    """A pass's wish to know something about one value.

    Args:
        value: The value's name.
        stats: What to measure.
        axis: The channel axis for the statistics ``BY_CHANNEL``; may be negative.

    """

    value: str
    stats: frozenset[Stat]
    axis: int = -1

    def met_by(self, facts: Facts | None, rank: int | None) -> bool:
        """Tell whether ``facts`` hold all of it, for a value with ``rank`` axes; None if that is unknown."""
        if facts is None or not facts.has(self.stats):
            return False
        return not self.stats & BY_CHANNEL or facts.lies_along(self.axis, rank)


@dataclass(frozen=True, eq=False)
class Facts:
    """What is known about one value; a part that was not asked for is None.

    Args:
        count: How many elements were seen, padding left out.
        low: Smallest value, which may be infinite; infinity if none was seen.
        high: Largest value, likewise.
        average: Moving average of (smallest, largest) over the samples.
        channel_low: Shape (C,); smallest value of each channel.
        channel_high: Shape (C,); largest value of each channel.
        axis: The channel axis of the two arrays above and of those below that have channels.
        histogram: Counts over the whole tensor.
        rows: Shape (R, C); sampled rows.
        mean: Shape (C,); mean of each channel.
        gram: Shape (C, C); ``x.T @ x`` over all rows ``x``.

    """

    count: int
    low: float
    high: float
    average: tuple[float, float] | None = None
    channel_low: NDArray[np.float32] | None = None
    channel_high: NDArray[np.float32] | None = None
    axis: int = -1
    histogram: Histogram | None = None
    rows: NDArray[np.float32] | None = None
    mean: NDArray[np.float32] | None = None
    gram: NDArray[np.float32] | None = None

    def has(self, stats: Iterable[Stat]) -> bool:
        """Tell whether all of ``stats`` were measured, or there was nothing to measure."""
        parts: dict[Stat, Any] = {
            Stat.RANGE: self.low,
            Stat.AVERAGE: self.average,
            Stat.CHANNEL_RANGE: self.channel_low,
            Stat.MEAN: self.mean,
            Stat.HISTOGRAM: self.histogram,
            Stat.ROWS: self.rows,
            Stat.GRAM: self.gram,
        }
        return self.count == 0 or all(parts[stat] is not None for stat in stats)

    def lies_along(self, axis: int, rank: int | None) -> bool:
        """Tell whether what is known of channels is known along ``axis`` of a value with ``rank`` axes.

        Where the rank is unknown, axes counted from the front and from the back do not compare.
        """
        return self.axis == axis or (rank is not None and self.axis % rank == axis % rank)

    def and_also(self, newer: Facts) -> Facts:
        """Return ``newer`` of the same value, with the parts that only ``self`` has.

        Where both know channels along different axes, those of ``newer`` stay.
        """
        fresh = any(getattr(newer, part) is not None for part in CHANNEL_PARTS)
        kept = WHOLE_PARTS if fresh and newer.axis != self.axis else WHOLE_PARTS + CHANNEL_PARTS
        lacking = {part: getattr(self, part) for part in kept if getattr(newer, part) is None}
        return replace(newer, axis=newer.axis if fresh else self.axis, **lacking)

    def rescaled(
        self, scale: NDArray[Any], shift: NDArray[Any], axis: int | None, rank: int | None = None
    ) -> Facts | None:
        """Return the facts of ``(x - shift) / scale``, as far as those of ``x`` tell them exactly.

        The whole range follows from the ranges of the channels; what depends on all values, such as the
        histogram, is unknown again.

        Args:
            scale: Shape (C,), > 0.
            shift: Shape (C,).
            axis: The axis of ``x`` that both lie along; None if the channels lie along several axes.
            rank: The number of axes of ``x``, by which negative and other axes compare.

        Returns:
            None if nothing is known exactly.

        """
        if self.count == 0:
            return self
        if axis is None or self.channel_low is None or self.channel_high is None:
            return None
        if not self.lies_along(axis, rank):
            return None

        def moved(values: NDArray[np.float32]) -> NDArray[np.float32]:
            result: NDArray[np.float32] = ((values.astype(np.float64) - shift) / scale).astype(np.float32)
            return result

        low, high = moved(self.channel_low), moved(self.channel_high)
        rows, mean = (None if part is None else moved(part) for part in (self.rows, self.mean))
        return replace(
            self,
            low=float(low.min()),
            high=float(high.max()),
            average=None,
            channel_low=low,
            channel_high=high,
            histogram=None,
            rows=rows,
            mean=mean,
            gram=None,
        )


def joined(known: Mapping[str, Facts], newer: Mapping[str, Facts]) -> dict[str, Facts]:
    """Return what both tell of each value; what was measured later counts."""
    both = {name: known[name].and_also(facts) for name, facts in newer.items() if name in known}
    return {**known, **newer, **both}
