"""What happens to an image between the file and the model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxq.calibration.data.base import InputSpec
from onnxq.calibration.data.options import ChannelLayout, ChannelOrder, DataOptions
from onnxq.calibration.data.pixels import BYTE, Pixels, channel_layout, pixels_from
from onnxq.calibration.data.settings import read_settings
from onnxq.errors import DataError
from onnxq.limits import PIXELS
from onnxq.runtime.batch import Array

if TYPE_CHECKING:
    from PIL.Image import Image

CONFIG_FILE = "preprocessor_config.json"
BILINEAR = 2
RESAMPLES = range(6)
"""Pillow's numbers of its filters."""
CROP_BELOW = 384


@dataclass(frozen=True)
class Preprocess:
    """Resize, crop, scale, normalise, lay out: in this order.

    Args:
        size: Resize to this height and width, whatever the image's proportions.
        shortest: Resize so that the shorter side has this many pixels.
        longest: With ``shortest``: the longer side gets no more than this.
        crop: Cut this height and width from the middle; missing pixels are black.
        resample: Pillow's number of the filter.
        pixels: Scale, mean and std.
        layout: Channels first or last.
        order: The model's order of colours.
        grey: One channel instead of three.

    """

    size: tuple[int, int] | None = None
    shortest: int | None = None
    longest: int | None = None
    crop: tuple[int, int] | None = None
    resample: int = BILINEAR
    pixels: Pixels = field(default_factory=Pixels)
    layout: ChannelLayout = "nchw"
    order: ChannelOrder = "rgb"
    grey: bool = False

    def __call__(self, image: Image, where: str) -> Array:
        """Return float32 of shape (C,H,W) or (H,W,C)."""
        resized = self._resized(image.convert("L" if self.grey else "RGB"), where)
        cropped = resized if self.crop is None else _center_crop(resized, self.crop, where)
        array = np.asarray(cropped)
        array = array[..., None] if self.grey else array[..., :: 1 if self.order == "rgb" else -1]
        values = self.pixels.apply(array, channel_axis=2, where=where)
        return np.ascontiguousarray(values.transpose(2, 0, 1)) if self.layout == "nchw" else values

    def _resized(self, image: Image, where: str) -> Image:
        size = self.size
        if self.shortest is not None:
            size = _fit_shortest(image.height, image.width, self.shortest, self.longest)
        if size is None:
            return image
        height, width = size
        _check_size(height, width, where)
        return image.resize((width, height), self.resample)


def preprocess_for(spec: InputSpec, folder: Path, options: DataOptions) -> Preprocess:
    """Return the steps that a preprocessor_config.json and ``options`` ask for; options win.

    Raises:
        DataError: Neither says how pixels become numbers, or the config cannot be read.

    """
    config = _find_config(folder, options.model_dir)
    pixels = pixels_from(options)
    if config is None and pixels is None:
        raise DataError(
            f"no {CONFIG_FILE} beside the images or the model",
            where=str(folder),
            hint="say how pixels become numbers: --scale, --mean, --std (and --size, --layout)",
        )
    steps = Preprocess() if config is None else _from_config(*config)
    steps = replace(steps, pixels=pixels or steps.pixels, order=options.channel_order)
    return _for_model(steps, spec, options)


def _for_model(steps: Preprocess, spec: InputSpec, options: DataOptions) -> Preprocess:
    """Add what the model's shape says: layout, channels, and the size where nothing else does."""
    layout = channel_layout(spec, options.layout)
    channels, sides = _axes(spec, layout)
    steps = replace(steps, layout=layout, grey=channels == 1)
    if options.size is not None:
        return replace(steps, size=options.size, shortest=None, crop=None)
    if steps == replace(steps, size=None, shortest=None, crop=None):
        return replace(steps, size=sides)
    return steps


def _axes(spec: InputSpec, layout: ChannelLayout) -> tuple[int | None, tuple[int, int] | None]:
    """Return the model's channels, and height and width, as far as they are fixed."""
    if spec.shape is None or len(spec.shape) != 4:
        return None, None
    order = (1, 2, 3) if layout == "nchw" else (3, 1, 2)
    channels, height, width = (spec.shape[axis] for axis in order)
    fixed = isinstance(height, int) and isinstance(width, int)
    return channels if isinstance(channels, int) else None, (int(height), int(width)) if fixed else None  # type: ignore[arg-type]


def _find_config(folder: Path, model_dir: Path | None) -> tuple[dict[str, Any], str] | None:
    for place in (folder, model_dir):
        path = None if place is None else place / CONFIG_FILE
        if path is not None and path.is_file():
            return _read(path), str(path)
    return None


def _read(path: Path) -> dict[str, Any]:
    config = read_settings(path, hint="export the model again")
    if not isinstance(config, dict):
        raise DataError("not a JSON object", where=str(path), hint="export the model again")
    return config


def _from_config(config: dict[str, Any], where: str) -> Preprocess:
    """Read ``config``; a value of the wrong type is the file's fault."""
    try:
        return _steps(config, where)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise DataError(
            f"a value is not of the expected type ({error})", where=where, hint="export the model again"
        ) from error


def _steps(config: dict[str, Any], where: str) -> Preprocess:
    """Read the keys that transformers' image processors share.

    Source:
        transformers, image_processing_utils and the ViT, CLIP and ConvNeXt processors.

    """
    crop = _sides(config.get("crop_size"), where) if config.get("do_center_crop", False) else None
    steps = Preprocess(
        crop=crop,
        resample=_resample(config),
        pixels=_pixels(config),
    )
    if not config.get("do_resize", True) or config.get("size") is None:
        return steps
    return _with_size(steps, config, where)


def _with_size(steps: Preprocess, config: dict[str, Any], where: str) -> Preprocess:
    """Read ``size``: height and width, a shortest edge, or a number that means one of them.

    A bare number comes from older configs; it is the shortest edge where a crop follows and both
    sides otherwise. With ``crop_pct``, small sizes are resized larger and then cropped (ConvNeXt).
    """
    size = config["size"]
    if isinstance(size, dict) and "shortest_edge" in size:
        shortest = int(size["shortest_edge"])
        percent = config.get("crop_pct")
        if percent and shortest < CROP_BELOW:
            return replace(steps, shortest=int(shortest / percent), crop=(shortest, shortest))
        if percent:
            return replace(steps, size=(shortest, shortest))
        longest = size.get("longest_edge")
        return replace(steps, shortest=shortest, longest=None if longest is None else int(longest))
    if isinstance(size, int) and steps.crop is not None:
        return replace(steps, shortest=size)
    return replace(steps, size=_sides(size, where))


def _resample(config: dict[str, Any]) -> int:
    number = int(config.get("resample", BILINEAR))
    if number not in RESAMPLES:
        raise ValueError(f"resample {number}")
    return number


def _sides(size: object, where: str) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    if isinstance(size, dict) and {"height", "width"} <= size.keys():
        return int(size["height"]), int(size["width"])
    raise DataError(
        f"the size {size!r} is not understood",
        where=where,
        hint="give --size HEIGHTxWIDTH, or height and width, or shortest_edge in the file",
    )


def _pixels(config: dict[str, Any]) -> Pixels:
    scale = float(config.get("rescale_factor", BYTE)) if config.get("do_rescale", True) else 1.0
    if not config.get("do_normalize", True) or config.get("image_mean") is None:
        return Pixels(scale)
    mean, std = _floats(config["image_mean"]), _floats(config.get("image_std", 1.0))
    if not all(map(isfinite, (scale, *mean, *std))) or 0 in std:
        raise ValueError(f"scale {scale}, mean {mean}, standard deviation {std}")
    return Pixels(scale, mean, std)


def _floats(values: float | Sequence[float]) -> tuple[float, ...]:
    return tuple(map(float, values)) if isinstance(values, Sequence) else (float(values),)


def _fit_shortest(height: int, width: int, shortest: int, longest: int | None) -> tuple[int, int]:
    """Return the size with the shorter side ``shortest`` and the same proportions, rounded down."""
    short, long = sorted((height, width))
    if longest is not None and long * shortest > longest * short:
        shortest = round(longest * short / long)
    other = min(int(shortest * long / short), longest or sys.maxsize)
    return (shortest, other) if height <= width else (other, shortest)


def _center_crop(image: Image, size: tuple[int, int], where: str) -> Image:
    height, width = size
    _check_size(height, width, where)
    top, left = (image.height - height) // 2, (image.width - width) // 2
    return image.crop((left, top, left + width, top + height))


def _check_size(height: int, width: int, where: str) -> None:
    """Raise if an image cannot have this size, or not within the limit."""
    if height < 1 or width < 1:
        raise DataError(
            f"it would be resized or cropped to {height} x {width} pixels",
            where=where,
            hint="leave the image out, or give --size HEIGHTxWIDTH",
        )
    PIXELS.check(height * width, f"resized or cropped to {height} x {width} it has", where, DataError)
