"""Facts: what calibration has measured about one value of a graph, and what passes wish to know."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from numpy.typing import NDArray

from onnxq.quant.statistics import STATISTICS
from onnxq.quant.statistics.base import Holding, Rescaling, Statistic
from onnxq.quant.statistics.range import Range

Kind = type[Statistic]
"""A kind of statistic: ``Range``, ``Mean``, ...; see ``onnxq.quant.statistics``."""
Place = tuple[Kind, int | None]
"""A kind, and the channel axis, counted from the end, or None for a statistic of the whole."""
S = TypeVar("S", bound=Statistic)


@dataclass(frozen=True)
class Need:
    """A pass's wish to know something about one value.

    Args:
        value: The value's name.
        stats: What to measure.
        axis: The channel axis for statistics by channel, counted from the end: negative, so that one
            axis has one number. The others do not depend on it.

    Raises:
        ValueError: ``axis`` is not negative.

    """

    value: str
    stats: frozenset[Kind]
    axis: int = -1

    def __post_init__(self) -> None:
        """Check the axis."""
        if self.axis >= 0:
            raise ValueError(f"channel axis {self.axis} of {self.value!r}: count it from the end, as -1")

    @property
    def places(self) -> frozenset[Place]:
        """Where what is wished for stands among facts."""
        return frozenset(_place(kind, self.axis) for kind in self.stats)

    @property
    def of_values(self) -> Need:
        """The wish without what gradients tell."""
        return replace(self, stats=frozenset(kind for kind in self.stats if kind.gradients == "none"))

    @property
    def of_gradients(self) -> Need:
        """The wish for what gradients tell alone."""
        return replace(self, stats=self.stats - self.of_values.stats)


@dataclass(frozen=True, eq=False)
class Facts:
    """What is known about one value: statistics of the whole, and of its channels along one axis or several.

    The range is part of all facts. ``facts_of`` makes them.

    Args:
        count: How many elements were seen, padding left out.
        parts: The statistics by place.

    Raises:
        ValueError: ``count`` is negative, an axis is not, the range is missing, or the parts along one axis
            tell of different numbers of channels.

    """

    count: int
    parts: Mapping[Place, Statistic]

    def __post_init__(self) -> None:
        """Check that the parts fit together."""
        if self.count < 0 or (Range, None) not in self.parts or any(axis >= 0 for axis in self.axes):
            raise ValueError("no facts look like this")
        for axis in self.axes:
            if len({part.channels for part in self.along(axis)}) > 1:
                raise ValueError("parts of channels have different lengths")

    @property
    def low(self) -> float:
        """The smallest value, which may be infinite; infinity if none was seen."""
        return self.known(Range).low

    @property
    def high(self) -> float:
        """The largest value, likewise."""
        return self.known(Range).high

    @property
    def axes(self) -> list[int]:
        """The channel axes that something is known along, in order."""
        return sorted({axis for _, axis in self.parts if axis is not None})

    def get(self, kind: type[S], axis: int = -1) -> S | None:
        """Return one statistic, along ``axis`` if it is one by channel; None if it was not measured."""
        part = self.parts.get(_place(kind, axis))
        return part if isinstance(part, kind) else None

    def known(self, kind: type[S], axis: int = -1) -> S:
        """Return one statistic that a pass has asked for.

        Raises:
            ValueError: It was not measured.

        """
        part = self.get(kind, axis)
        if part is None:
            raise ValueError(f"these facts lack {kind.name!r}: ask for it in a Need")
        return part

    def along(self, axis: int | None) -> Iterator[Statistic]:
        """Yield what is known along a channel axis, or, with None, of the whole."""
        return (part for (_, at), part in self.parts.items() if at == axis)

    def has(self, stats: Iterable[Kind], axis: int = -1) -> bool:
        """Tell whether all of ``stats`` were measured, along ``axis``, or there was nothing to measure."""
        return self.count == 0 or all(_place(kind, axis) in self.parts for kind in stats)

    def and_also(self, newer: Facts) -> Facts:
        """Return ``newer`` of the same value, with the parts that only ``self`` has."""
        return replace(newer, parts={**self.parts, **newer.parts})

    def rescaled(self, scale: NDArray[Any], shift: NDArray[Any], axis: int | None) -> Facts | None:
        """Return the facts of ``(x - shift) / scale``, as far as those of ``x`` tell them.

        Each statistic knows what becomes of it: most move exactly, and the histogram becomes that of the
        sampled rows. Channels along other axes are unknown again.

        Args:
            scale: Shape (C,), > 0.
            shift: Shape (C,).
            axis: The axis of ``x`` that both lie along, counted from the end; None if the channels lie along
                several axes.

        Returns:
            None if not even the range is known exactly.

        """
        if axis is None:
            return self if self.count == 0 else None
        by = Rescaling(scale, shift, axis)
        return self._moved(lambda kind: kind.rescaled(self, by), axis)

    def held(self, low: NDArray[Any], high: NDArray[Any], axis: int) -> Facts | None:
        """Return the facts of ``clip(x, low, high)``, as far as those of ``x`` tell them.

        Args:
            low: Shape (C,); minus infinity where nothing is held.
            high: Shape (C,), likewise.
            axis: The axis of ``x`` that both lie along, counted from the end.

        Returns:
            None if not even the range is known.

        """
        by = Holding(low, high, axis)
        return self._moved(lambda kind: kind.held(self, by), axis)

    def _moved(self, move: Callable[[Kind], Statistic | None], axis: int) -> Facts | None:
        if self.count == 0:
            return self
        moved = [part for kind in STATISTICS.values() if (part := move(kind)) is not None]
        return facts_of(self.count, *moved, axis=axis) if any(type(part) is Range for part in moved) else None

    def with_parts(self, parts: Mapping[Place, Statistic]) -> Facts:
        """Return the facts with these parts too."""
        return replace(self, parts={**self.parts, **parts})

    def only(self, places: Container[Place]) -> Facts:
        """Return the facts without what stands in other places; the range stays."""
        parts = {place: part for place, part in self.parts.items() if place in places}
        return replace(self, parts={(Range, None): self.known(Range), **parts})

    def without(self, kinds: Iterable[Kind]) -> Facts:
        """Return the facts without these statistics."""
        out = set(kinds)
        return replace(self, parts={place: part for place, part in self.parts.items() if place[0] not in out})

    def thinned(self, most: int) -> Facts:
        """Return the facts with at most about ``most`` entries of each statistic that can do with fewer."""
        return replace(self, parts={place: part.thinned(most) for place, part in self.parts.items()})


def facts_of(count: int, *parts: Statistic, axis: int = -1) -> Facts:
    """Return facts with these parts; those by channel lie along ``axis``, counted from the end."""
    return Facts(count, {_place(type(part), axis): part for part in parts})


def meets(facts: Mapping[str, Facts], need: Need) -> bool:
    """Tell whether ``facts``, by value, hold all that ``need`` asks for."""
    found = facts.get(need.value)
    return found is not None and found.has(need.stats, need.axis)


def joined(known: Mapping[str, Facts], newer: Mapping[str, Facts]) -> dict[str, Facts]:
    """Return what both tell of each value; what was measured later counts."""
    both = {name: known[name].and_also(facts) for name, facts in newer.items() if name in known}
    return {**known, **newer, **both}


def _place(kind: Kind, axis: int) -> Place:
    return kind, axis if kind.by_channel else None
