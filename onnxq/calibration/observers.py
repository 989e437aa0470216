"""What watches one value: an observer for each statistic that is wanted of it, as the samples stream by.

How each observes is in ``onnxq.quant.statistics``. The memory of all is bounded however many samples come,
and their results do not depend on how the samples were cut into batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.errors import PreconditionError
from onnxq.quant.facts import Facts, Kind, Need
from onnxq.quant.statistics import ChannelRange, Range
from onnxq.quant.statistics.base import Block, Float32, Observer


class ValueObserver:
    """All statistics that are wanted of one value, its channels along one axis or several.

    Args:
        needs: The wishes for this value, all of the same ``value``; the range is always measured.

    """

    def __init__(self, needs: Iterable[Need]) -> None:
        """Make one observer for each statistic, and for those by channel one for each axis."""
        needs = tuple(needs)
        self.name = needs[0].value
        self._count = 0
        self._whole = _observers({Range}.union(*(_chosen(need.stats, by_channel=False) for need in needs)))
        by_axis: dict[int, set[Kind]] = {}
        for need in needs:
            by_axis.setdefault(need.axis, set()).update(_chosen(need.stats, by_channel=True))
        self._along = {axis: _observers(stats) for axis, stats in sorted(by_axis.items()) if stats}
        self._channels: dict[int, int] = {}

    def blocks(self, values: Float32, rank: int) -> dict[int, Block]:
        """Wrap samples for ``update``, by channel axis; where no channels are wanted, along the last axis.

        Args:
            values: Shape (N, ...); the leading axes may have been split since the model returned them.
            rank: The number of axes that the value has in the model.

        Raises:
            PreconditionError: Channels are wanted, and their axis is no axis behind the samples.

        """
        ranged = any(ChannelRange in observers for observers in self._along.values())
        if rank < 2:
            return dict.fromkeys(self._along or [-1], Block(values[..., np.newaxis], -1))
        for axis in self._along:
            if axis <= -rank:
                raise PreconditionError(
                    f"axis {axis} of {rank} axes cannot hold its channels", where=f"value {self.name!r}"
                )
        return {axis: Block(values, axis, ranged) for axis in self._along or [-1]}

    def update(self, blocks: Mapping[int, Block]) -> None:
        """Take in the next samples.

        Raises:
            PreconditionError: The number of channels differs from that of earlier samples.

        """
        first = next(iter(blocks.values()))
        self._count += first.values.size
        for whole in self._whole.values():
            whole.update(first)
        for axis, observers in self._along.items():
            block = blocks[axis]
            self._check_channels(axis, block.values.shape[block.axis])
            for observer in observers.values():
                observer.update(block)

    def _check_channels(self, axis: int, found: int) -> None:
        known = self._channels.setdefault(axis, found)
        if found != known:
            raise PreconditionError(
                f"its axis {axis} has {known} channels in one sample and {found} in another",
                where=f"value {self.name!r}",
            )

    def facts(self) -> Facts:
        """Return what was measured so far."""
        places: list[tuple[int | None, dict[Kind, Observer]]] = [(None, self._whole), *self._along.items()]
        return Facts(
            self._count,
            {
                (kind, axis): part
                for axis, observers in places
                for kind, observer in observers.items()
                if (part := observer.result()) is not None
            },
        )


def observe_array(array: NDArray[Any], stats: Iterable[Kind], axis: int = -1) -> Facts:
    """Return the facts of an array that is known without data, such as a weight.

    Args:
        array: Any shape; floating point. It counts as one sample.
        stats: What to measure.
        axis: The channel axis of ``array``, counted from the end.

    """
    observer = ValueObserver([Need("array", frozenset(stats), axis)])
    values = np.asarray(array, np.float32)[np.newaxis]
    observer.update(observer.blocks(values if values.ndim > 1 else values.reshape(1, 1), array.ndim + 1))
    return observer.facts()


def _chosen(stats: Iterable[Kind], *, by_channel: bool) -> set[Kind]:
    return {kind for kind in stats if kind.by_channel == by_channel}


def _observers(kinds: Iterable[Kind]) -> dict[Kind, Observer]:
    return {kind: kind.observer() for kind in sorted(kinds, key=lambda kind: kind.name)}
