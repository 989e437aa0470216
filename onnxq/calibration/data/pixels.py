"""How integer pixels become the floats a model was trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxq.calibration.data.base import InputSpec
from onnxq.calibration.data.options import ChannelLayout, DataOptions
from onnxq.errors import DataError
from onnxq.runtime.batch import Array

BYTE = 1 / 255
CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class Pixels:
    """``(x * scale - mean) / std``, mean and std with one value or one for each channel."""

    scale: float = BYTE
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def apply(self, array: Array, channel_axis: int | None, where: str) -> Array:
        """Return float32 of ``array``'s shape.

        Raises:
            DataError: There are several values, but not as many channels.

        """
        mean = self._spread("mean", self.mean, array, channel_axis, where)
        std = self._spread("std", self.std, array, channel_axis, where)
        scaled: Array = array.astype(np.float32) * np.float32(self.scale)
        return (scaled - mean) / std

    def _spread(
        self, name: str, values: tuple[float, ...], array: Array, axis: int | None, where: str
    ) -> Array:
        """Return ``values`` in a shape that broadcasts along ``axis``."""
        if len(values) == 1:
            return np.array(values, np.float32)
        if axis is None or array.shape[axis] != len(values):
            found = "no channel axis" if axis is None else f"{array.shape[axis]} channels"
            raise DataError(
                f"{name} has {len(values)} values, but the data has {found}",
                where=where,
                hint=f"give one value of {name}, or one for each channel",
            )
        shape = [1] * array.ndim
        shape[axis] = len(values)
        return np.array(values, np.float32).reshape(shape)


def pixels_from(options: DataOptions) -> Pixels | None:
    """Return the arithmetic that ``options`` ask for, or None if they say nothing about it."""
    if options.scale is None and options.mean is None and options.std is None:
        return None
    return Pixels(
        scale=BYTE if options.scale is None else options.scale,
        mean=options.mean or (0.0,),
        std=options.std or (1.0,),
    )


def channel_layout(spec: InputSpec, asked: ChannelLayout | None) -> ChannelLayout:
    """Return where ``spec`` has its channels: as ``asked``, else as its shape says, else first."""
    if asked or spec.shape is None or len(spec.shape) != 4:
        return asked or "nchw"
    return "nhwc" if spec.shape[3] in CHANNELS and spec.shape[1] not in CHANNELS else "nchw"


def channel_axis(spec: InputSpec, asked: ChannelLayout | None) -> int | None:
    """Return the channel axis of a batch of images, or None if ``spec`` is not one."""
    if spec.shape is None or len(spec.shape) != 4:
        return None
    return 1 if channel_layout(spec, asked) == "nchw" else 3
