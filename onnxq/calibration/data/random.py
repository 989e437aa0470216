"""Random feeds, for timing and trying out; never chosen unless asked for by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnxq.calibration.data.base import ArrayRows, Chunk, InputSpec
from onnxq.calibration.data.matching import Matcher, is_float
from onnxq.calibration.data.options import DataOptions
from onnxq.runtime.batch import Array

SAMPLES = 16
LENGTH = 16
SIDE = 224
IDS = 100
WARNING = "random data: its ranges mean nothing, use it to try a model out, never to calibrate one for use"


@dataclass(frozen=True)
class RandomSource:
    """``limit`` samples (16 if not given) drawn from ``seed``, the same for every batch size.

    Floats are normal, integers are ids below 100, booleans are true or false. Inputs with "mask" in
    the name are ones, those with "type" zeros; strings are all "text".
    """

    inputs: Sequence[InputSpec]
    options: DataOptions
    warning: str | None = WARNING

    def count(self) -> int:
        """Return the number of samples."""
        batch = Matcher(self.inputs, self.options).fixed_batch or 1
        return -(-(self.options.limit or SAMPLES) // batch) * batch

    def chunks(self) -> Iterator[Chunk]:
        """Draw sample after sample."""
        rng = np.random.default_rng(self.options.seed)
        carriers = Matcher(self.inputs, self.options).carriers
        required = [spec for spec in self.inputs if spec.required]
        shared = {spec.name: self._draw(spec, rng) for spec in required if spec.name not in carriers}
        for index in range(self.count()):
            own = {spec.name: self._draw(spec, rng, 1) for spec in required if spec.name in carriers}
            yield Chunk(
                {name: ArrayRows(array) for name, array in {**shared, **own}.items()},
                f"random sample {index}",
            )

    def _draw(self, spec: InputSpec, rng: np.random.Generator, batch: int | None = None) -> Array:
        shape = self._shape(spec, batch)
        if "mask" in spec.name.lower():
            return np.ones(shape, spec.dtype)
        if "type" in spec.name.lower():
            return np.zeros(shape, spec.dtype)
        if spec.dtype.kind == "O":
            return np.full(shape, "text", object)
        if is_float(spec.dtype):
            return rng.standard_normal(shape).astype(spec.dtype)
        return rng.integers(0, 2 if spec.dtype.kind == "b" else IDS, shape).astype(spec.dtype)

    def _shape(self, spec: InputSpec, batch: int | None) -> tuple[int, ...]:
        """Fill dynamic axes: the image's size or 224 in four axes, else ``pad_to`` or 16."""
        given = (batch,) if spec.shape is None else spec.shape
        sides = self.options.size or (SIDE, SIDE)
        length = self.options.pad_to or LENGTH
        filler = [1, 3, *sides] if len(given) == 4 else [1] + [length] * (len(given) - 1)
        symbols = Matcher(self.inputs, self.options).batch_symbols
        shape = [
            axis if isinstance(axis, int) else 1 if axis in symbols else fill
            for axis, fill in zip(given, filler, strict=False)
        ]
        return (batch, *shape[1:]) if batch is not None else tuple(shape)
